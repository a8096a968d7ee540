"""What the clean run of every prompt offers: states, contributions, readouts, passes of loops."""
