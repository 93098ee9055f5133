"""A migration that fails with a serialization error the first time."""
