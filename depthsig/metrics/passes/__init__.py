"""Metrics of one pass of a loop as a map: how it stretches what differs."""
