"""A sweep as its folder keeps it."""
