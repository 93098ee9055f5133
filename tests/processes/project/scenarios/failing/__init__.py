"""A data migration that fails, once the test allows "go"."""
