"""A migration that catches every error, including the interruption of its statement."""
