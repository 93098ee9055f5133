"""For many databases: each migration enters its alias, and one fails (`SCENARIO_FAILS`)."""
