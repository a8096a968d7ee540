"""The engine: clean and edited runs, and the certificates that prove them."""
