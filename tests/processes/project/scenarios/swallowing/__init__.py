"""A migration that catches everything, also that a statement of it was interrupted."""
