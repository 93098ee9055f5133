"""Quick queries beside slow queries and a running initialization."""

from __future__ import annotations

from statistics import median, quantiles

from tests.support import Database

from .report import Figure, seconds
from .stage import ROOMY, Stage
from .waiting import held, leader, until_held

POOLED = "config.pooled"
SLOW_QUERIES = 20
#: The number of quick queries in one process.
SAMPLES = 400


def quick_beside_slow(stage: Stage, rounds: int = 5) -> Figure:
    """Quick queries beside 20 slow ones in a slow pool and a running initialization ÷ without them.

    The effect of analytics and of a long migration on a page, as the 95th percentile, including the
    time to get a connection. The slow queries wait and do not compute, because a pool separates
    connections, not processors. A note shows the time with all queries in one pool.
    """
    alone, beside = [], []
    for _ in range(rounds):
        with stage.database(ROOMY, initialized=True) as database:
            alone += quick(stage, database, 0)
            with leader(stage, held(stage, database)) as leading:
                until_held(database, leading)
                beside += quick(stage, database, SLOW_QUERIES, "analytics")
    with stage.database(ROOMY, initialized=True) as database:
        together = quick(stage, database, SLOW_QUERIES, samples=10)
    ratio = p95(beside) / p95(alone)
    return Figure(
        f"quick queries beside {SLOW_QUERIES} slow ones ÷ alone, 95th percentile",
        f"{ratio:.2f} ({seconds(p95(beside))} ÷ {seconds(p95(alone))})",
        "1.5",
        ratio <= 1.5,
        beside,
        alone,
        limit_seconds=1.5 * p95(alone),
        notes=[f"all in one pool of four: {seconds(median(together))}"],
    )


def quick(
    stage: Stage,
    database: Database,
    threads: int,
    pool: str = "",
    samples: int = SAMPLES,
) -> list[float]:
    """Return the seconds of each quick query in a new process."""
    done = stage.project.run(
        *("quick.py", str(samples), str(threads), pool),
        environment=stage.project.environment(POOLED, database.settings()),
    )
    return [float(line) for line in done.output.splitlines()]


def p95(samples: list[float]) -> float:
    return quantiles(samples, n=20)[-1]
