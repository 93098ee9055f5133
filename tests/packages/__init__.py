"""Well-known packages, migrated and validated: `python -m tests.packages`."""
