"""A long statement. The second process checks if the statement still runs. `SCENARIO_ATOMIC`.

With `SCENARIO_EACH`, every process runs the statement.
"""
