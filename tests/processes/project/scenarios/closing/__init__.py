"""A migration that closes its connection: `SCENARIO_CLOSE`, `SCENARIO_ATOMIC`."""
