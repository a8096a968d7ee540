"""Repeats of a span at inference time: on tasks with answers, and whether a signature foretells them."""
