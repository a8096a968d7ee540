"""Statistics: arrays in, arrays out; no labels, no torch."""
