"""An unknown database engine: SQLite under another name."""
