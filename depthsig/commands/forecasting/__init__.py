"""What a request will take, and the largest that fits a budget: constants, this machine's pace, what is counted."""
