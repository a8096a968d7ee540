"""Many analyses from one file: what is swept, unit by unit, here or on Ray."""
