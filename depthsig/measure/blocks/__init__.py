"""The fused comparison for devices that want thousands of rows at once."""
