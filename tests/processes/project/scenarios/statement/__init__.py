"""One long statement; whoever comes second looks whether it still runs. `SCENARIO_ATOMIC`.

With `SCENARIO_EACH`, nobody is second."""
