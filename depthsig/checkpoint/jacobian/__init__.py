"""Jacobian lenses: their file, and which kind of lens a file or folder holds."""
