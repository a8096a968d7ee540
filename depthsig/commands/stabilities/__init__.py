"""What the stability of a loop is made of."""
