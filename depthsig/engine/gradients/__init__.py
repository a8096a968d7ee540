"""Gradients through the steps of a whole run: Jacobians of the last state, and directions of single tokens."""
