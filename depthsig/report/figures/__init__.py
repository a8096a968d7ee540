"""Figures, one file each: a table drawn on given axes, which are given back."""
