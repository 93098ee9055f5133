"""A table gets a column, while somebody may be reading it."""
