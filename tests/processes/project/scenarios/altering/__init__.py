"""A migration adds a column to a table, which another session may be reading."""
