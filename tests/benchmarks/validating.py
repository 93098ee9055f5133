"""The cost of comparing a database with the models."""

from __future__ import annotations

from statistics import median

from .project import INITIALIZED
from .report import Figure
from .stage import Stage

TABLES = 600
LIMIT = 0.050


def whole_schema(stage: Stage, rounds: int = 15) -> Figure:
    """A validation of 600 tables, once in a process, on an open connection.

    The time that the leader adds to a run before the build is ready. A start with nothing to do
    does not validate.
    """
    with stage.database(initialized=True) as database:
        environment = stage.project.environment(INITIALIZED, database.settings())

        def validate() -> float:
            return float(
                stage.project.run(
                    "validated.py", str(TABLES), environment=environment
                ).output
            )

        validate()  # creates the missing tables
        samples = [validate() for _ in range(rounds)]
    return Figure(
        f"validation of {TABLES} tables",
        f"{median(samples) * 1000:.1f} ms",
        f"{LIMIT * 1000:.0f} ms",
        median(samples) <= LIMIT,
        samples,
        limit_seconds=LIMIT,
    )
