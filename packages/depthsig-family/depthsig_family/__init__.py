"""Checkpoints of depthsig's reference family that its own wheel leaves out; depthsig finds them by name."""
