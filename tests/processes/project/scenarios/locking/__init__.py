"""A migration locks the status tables: for `SCENARIO_AFTER` seconds, or with `SCENARIO_GATED`."""
