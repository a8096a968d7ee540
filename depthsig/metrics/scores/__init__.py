"""Scores that are made of other entries' values."""
