"""A migration writes to a program that has ended."""
