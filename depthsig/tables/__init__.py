"""Arithmetic on per-prompt values: aggregates, intervals, scores and tests. Nothing here needs torch."""
