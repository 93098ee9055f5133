"""A data migration that tells how far it is, and waits in the middle of it."""
