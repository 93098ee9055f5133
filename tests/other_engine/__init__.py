"""A database engine that this package does not know: SQLite under another name."""
