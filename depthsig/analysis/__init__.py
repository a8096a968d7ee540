"""Analyses: requests in, signatures out."""
