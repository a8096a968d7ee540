"""What a forecast is made of: measured constants, the pace of this model on this machine, and what is counted."""
