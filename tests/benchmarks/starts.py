"""The cost of one start: with nothing to do, and on an empty database."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from .project import INITIALIZED, MIGRATIONS, STOCK, Project
from .report import Figure, seconds
from .stage import Stage

Samples = tuple[list[float], list[float]]


def alternate(
    rounds: int, baseline: Callable[[], float], ours: Callable[[], float]
) -> Samples:
    """Sample both in turn, so that a busy moment of the machine affects both."""
    pairs = [(baseline(), ours()) for _ in range(rounds)]
    return [first for first, _ in pairs], [second for _, second in pairs]


def nothing_to_do(stage: Stage, rounds: int = 15) -> Figure:
    """A whole `safe_migrate` with nothing to do ÷ `manage.py version`.

    The cost of every start of a replica once its build is initialized: a connection and a query.
    The baseline is a command that does nothing, in the same project of 60 apps.
    """
    project = stage.project
    with stage.database(initialized=True) as database:
        environment = project.environment(INITIALIZED, database.settings())

        def run(command: str) -> float:
            return project.run("manage.py", command, environment=environment).seconds

        run("safe_migrate")  # compiles every module before the samples
        baseline, ours = alternate(
            rounds, lambda: run("version"), lambda: run("safe_migrate")
        )
    ratio = median(ours) / median(baseline)
    more = median(ours) - median(baseline)
    return Figure(
        "nothing to do, process ÷ manage.py version",
        f"{ratio:.3f} ({more * 1000:+.1f} ms)",
        "1.10 or +25 ms",
        ratio <= 1.10 or more <= 0.025,
        ours,
        baseline,
        limit_seconds=max(1.10 * median(baseline), 0.025 + median(baseline)),
    )


def nothing_to_do_work(stage: Stage, rounds: int = 7) -> Figure:
    """`safe_migrate` with nothing to do ÷ stock `migrate`, both after `django.setup()`.

    The time saved against running plain `migrate` at every start. Django reads all migration files
    and sends its signals before it finds nothing to do.
    """
    project = stage.project
    with stage.database(initialized=True) as database:

        def work(command: str, settings: str) -> float:
            environment = project.environment(settings, database.settings())
            finished = project.run("timed.py", command, environment=environment)
            return float(finished.output.splitlines()[-1])

        work("migrate", STOCK), work("safe_migrate", INITIALIZED)
        baseline, ours = alternate(
            rounds,
            lambda: work("migrate", STOCK),
            lambda: work("safe_migrate", INITIALIZED),
        )
    part = median(baseline) / median(ours)
    return Figure(
        "the same, after setup ÷ no-op migrate",
        f"1/{part:.1f}",
        "1/25",
        part >= 25,
        ours,
        baseline,
        limit_seconds=median(baseline) / 25,
    )


def first_run(stage: Stage, rounds: int = 9) -> Figure:
    """`safe_migrate` ÷ stock `migrate` on an empty database, whole processes.

    The cost of recording and fencing each migration, so that it runs exactly once.
    """
    baseline, ours = alternate(
        rounds,
        lambda: first_run_of("migrate", STOCK, stage),
        lambda: first_run_of("safe_migrate", INITIALIZED, stage),
    )
    ratio = median(ours) / median(baseline)
    return Figure(
        f"empty database, {MIGRATIONS} migrations ÷ migrate",
        f"{ratio:.3f} ({seconds(median(ours) - median(baseline))} more)",
        "1.05",
        ratio <= 1.05,
        ours,
        baseline,
        limit_seconds=1.05 * median(baseline),
    )


def first_run_of(command: str, settings: str, stage: Stage) -> float:
    with stage.database(initialized=False) as database:
        project: Project = stage.project
        environment = project.environment(settings, database.settings())
        finished = project.run("manage.py", command, environment=environment)
        done = sum(database.applied_counts().values())
    if done != MIGRATIONS:
        raise AssertionError(f"{command} recorded {done} migrations, not {MIGRATIONS}")
    return finished.seconds
