"""A data migration that stays inside until the test allows "go"."""
