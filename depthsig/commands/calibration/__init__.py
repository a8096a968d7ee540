"""Recalibrated readouts: which prompts they are fitted on, and how a temperature and an affine map are fitted."""
