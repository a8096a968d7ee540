"""Depth control: prefixes of the clean run read out in several ways, and truncated runs."""
