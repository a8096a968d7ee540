"""What becomes of the tokens of a loop that is left early."""
