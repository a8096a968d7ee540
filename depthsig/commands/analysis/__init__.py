"""What an analysis is made of: proof, measurement, control and record."""
