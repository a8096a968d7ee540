"""What a command can know to be wrong before a model is loaded."""
