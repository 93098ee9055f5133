"""A migration that runs on PostgreSQL and on SQLite."""
