"""Nothing that only PostgreSQL can do."""
