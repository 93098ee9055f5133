"""A data migration waits until the test allows "go"."""
