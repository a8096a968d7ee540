"""What edited runs of every prompt offer: changed updates and changed outputs."""
