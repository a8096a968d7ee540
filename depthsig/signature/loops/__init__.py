"""What is saved of loops beside signatures."""
