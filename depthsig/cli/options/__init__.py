"""What every command has in common: help in groups with examples, a config file, completion, JSON alone."""
