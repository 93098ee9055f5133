"""A migration that cannot be serialized the first time."""
