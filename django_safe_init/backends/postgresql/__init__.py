"""PostgreSQL: an advisory lock on a session of its own, and a fence around the work."""
