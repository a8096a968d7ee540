"""What a card's memory holds at once."""
