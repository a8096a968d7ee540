"""Metrics of the passes of a loop: how one stretches what differs, and what each is worth to a token."""
