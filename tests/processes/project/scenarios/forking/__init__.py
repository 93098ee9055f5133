"""A migration that forks a child, which has whatever its parent has open, and outlives it."""
