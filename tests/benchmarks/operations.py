"""A migration that is not one transaction, with its journal and without."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from .project import Project, environment
from .report import Figure
from .stage import Stage

FOLDER = Path(__file__).with_name("stepwise")
KINDS = ("CreateModel", "AddField", "RunSQL")
#: The operations of one migration.
COUNT = 60
#: Milliseconds that an operation may cost more.
LIMIT = 2.0


def with_a_journal(stage: Stage, rounds: int = 3) -> Figure:
    """An operation of a migration that is not one transaction: ours - plain Django, in ms.

    The journal takes one more transaction and a row for each operation, and a row for each
    statement that Django postpones. The figure is the most expensive of three kinds; each
    migration has 60 operations of one kind, and a note shows each kind.
    """
    ours: list[float] = []
    baseline: list[float] = []
    notes, worst = [], 0.0
    # What a run costs more without a single operation is the price of a leader.
    start = median(pair(stage, KINDS[0], 0)[2] for _ in range(rounds))
    for kind in KINDS:
        pairs = [pair(stage, kind, COUNT) for _ in range(rounds)]
        ours += [each for each, _, _ in pairs]
        baseline += [each for _, each, _ in pairs]
        more = (median(each for _, _, each in pairs) - start) / COUNT * 1000
        notes.append(f"{kind}: {more:.1f} ms")
        worst = max(worst, more)
    return Figure(
        "an operation with its entry - without, in ms",
        f"{worst:.1f}",
        f"{LIMIT:g}",
        worst <= LIMIT,
        ours,
        baseline,
        notes=notes,
    )


def pair(stage: Stage, kind: str, count: int) -> tuple[float, float, float]:
    """Return the seconds with the journal, without, and the difference."""
    ours, plain = (migrate(stage, kind, count, mode) for mode in ("self", "off"))
    return ours, plain, ours - plain


def migrate(stage: Stage, kind: str, count: int, mode: str) -> float:
    """Return the seconds of the process that applies the migration."""
    project = Project(FOLDER)
    with stage.database(initialized=False) as database:
        variables = environment(
            FOLDER,
            BENCHMARK_DATABASE=json.dumps(database.settings()),
            BENCHMARK_OPERATIONS=str(count),
            BENCHMARK_KIND=kind,
            DB_INIT_MODE=mode,
        )
        return project.run("manage.py", "migrate", environment=variables).seconds
