"""SQLite: the operating system's lock on a file beside the database."""
