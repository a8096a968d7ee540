"""Pages about loops."""
