"""Results folders: where they go, and how one takes the place of another whole or not at all."""
