"""Measuring a model: which runs the metrics that were asked for need, and what each run gives them."""
