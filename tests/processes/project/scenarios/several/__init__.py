"""For several databases: each migration notes its start, waits for "go", and one may fail."""
