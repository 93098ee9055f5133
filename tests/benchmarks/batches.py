"""A data migration in batches, beside one transaction and single rows."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from .project import Project, environment
from .report import Figure, seconds
from .stage import Stage

FOLDER = Path(__file__).with_name("batched")
ROWS = 100_000
BATCH = 1_000
#: The number of rows for the slowest way.
FEW_ROWS = 5_000
LIMIT = 1.5


def in_batches(stage: Stage, rounds: int = 3) -> Figure:
    """A value for each of 100,000 rows: `for_each_batch` with 1,000 rows ÷ one transaction.

    The price of a data migration that continues after a crash and locks no row for long. Both
    compute the values in Python, and write them with `bulk_update`. A note shows the time of a
    migration that saves and commits each row, measured once with fewer rows.
    """
    ours, baseline = [], []
    for _ in range(rounds):
        baseline.append(fill(stage, "one"))
        ours.append(fill(stage, "batches"))
    single = fill(stage, "rows", FEW_ROWS)
    ratio = median(ours) / median(baseline)
    return Figure(
        f"{ROWS:,} rows in batches of {BATCH:,} ÷ one transaction",
        f"{ratio:.2f}",
        f"{LIMIT:g}",
        ratio <= LIMIT,
        ours,
        baseline,
        limit_seconds=LIMIT * median(baseline),
        notes=[f"each of {FEW_ROWS:,} rows saved and committed: {seconds(single)}"],
    )


def fill(stage: Stage, way: str, rows: int = ROWS) -> float:
    """Return the seconds in which the migration fills its rows."""
    project = Project(FOLDER)
    with stage.database(initialized=False) as database:
        variables = environment(
            FOLDER,
            BENCHMARK_DATABASE=json.dumps(database.settings()),
            BENCHMARK_ROWS=str(rows),
            BENCHMARK_BATCH=str(BATCH),
            BENCHMARK_WAY=way,
        )
        done = project.run("manage.py", "safe_migrate", environment=variables)
    [found] = [part for part in done.output.splitlines() if "seconds " in part]
    return float(found.rpartition("seconds ")[2])
