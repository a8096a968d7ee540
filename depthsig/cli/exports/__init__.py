"""Commands that tell a saved result elsewhere."""
