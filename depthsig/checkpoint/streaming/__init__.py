"""Layers read from their files as they are needed, for models that are larger than memory."""
