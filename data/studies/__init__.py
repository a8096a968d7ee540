"""Simulations of how far depthsig's statistics can be trusted, run as ``python -m data.studies.NAME``."""
