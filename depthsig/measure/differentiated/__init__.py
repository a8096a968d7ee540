"""Passes of a loop as differentiable functions of the states that enter them."""
