"""Checkpoints: opening them, and finding the places inside that depthsig measures at."""
