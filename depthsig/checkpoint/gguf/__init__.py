"""GGUF files: their header, what it says of the computation, and how they are read."""
