"""Commands about loops."""
