"""A migration prints a character that ASCII lacks."""
