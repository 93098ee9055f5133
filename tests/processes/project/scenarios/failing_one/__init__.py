"""For many databases: each enters its alias, and one fails (`SCENARIO_FAILS`)."""
