"""A migration that kills every process that runs it."""
