"""A migration builds an index concurrently."""
