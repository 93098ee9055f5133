"""A migration that is not one transaction, with its journal and without."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from .project import Project, environment
from .report import Figure
from .stage import Stage

FOLDER = Path(__file__).with_name("stepwise")
#: What one operation of a kind writes to the journal: itself, and the statements that Django
#: postpones. A model with a foreign key and an index for texts has four.
ENTRIES = {"CreateModel": 5, "AddField": 1, "RunSQL": 1}
#: The operations of one migration.
COUNT = 60
#: Milliseconds that an operation, or a statement that Django postpones, may cost more.
LIMIT = 2.0


def with_a_journal(stage: Stage, rounds: int = 3) -> Figure:
    """An entry in the journal of a migration: ours - plain Django, in ms.

    Each operation is one more transaction with a row of its own, and so is each statement that
    Django postpones. The figure is the most expensive of three kinds; each migration has 60
    operations of one kind, and a note shows each kind.
    """
    ours: list[float] = []
    baseline: list[float] = []
    notes, worst = [], 0.0
    # What a run costs more without a single operation is the price of a leader.
    start = median(pair(stage, "RunSQL", 0)[2] for _ in range(rounds))
    for kind, entries in ENTRIES.items():
        pairs = [pair(stage, kind, COUNT) for _ in range(rounds)]
        ours += [each for each, _, _ in pairs]
        baseline += [each for _, each, _ in pairs]
        total = median(each for _, _, each in pairs) - start
        more = total / COUNT / entries * 1000
        notes.append(f"{kind}, {entries} entries: {more:.1f} ms each")
        worst = max(worst, more)
    return Figure(
        "an operation or deferred statement with its entry - without, in ms",
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
