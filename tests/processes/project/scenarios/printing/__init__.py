"""A migration that prints; with `SCENARIO_PRINT` the signal receivers do, too."""
