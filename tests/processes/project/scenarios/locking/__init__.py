"""A migration that locks our tables: for `SCENARIO_AFTER` seconds, or with `SCENARIO_GATED`."""
