"""Tuned lenses: fitting them, and whether one belongs to a model."""
