"""A replication as a saved result: its tables, its record, and its table for a paper."""
