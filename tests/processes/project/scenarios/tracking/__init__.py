"""A data migration that reports its progress with `track()`, and waits in the middle."""
