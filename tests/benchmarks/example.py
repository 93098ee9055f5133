"""The example project: ten replicas on an empty database."""

from __future__ import annotations

from statistics import median
from typing import Any

from .processes import Fleet
from .project import REPOSITORY, environment
from .report import Figure, seconds
from .stage import Stage

EXAMPLE = REPOSITORY / "example_project"
REPLICAS = 10
LIMIT_SECONDS = 5.0


def ten_replicas(stage: Stage, rounds: int = 5) -> Figure:
    """Ten replicas of the example project, after their imports: the time until all are ready.

    A whole rollout of a small project on an empty database.
    """
    samples = [one_rollout(stage) for _ in range(rounds)]
    return Figure(
        f"example project, empty database, {REPLICAS} replicas: all ready",
        seconds(median(samples)),
        f"{LIMIT_SECONDS:g} s",
        median(samples) <= LIMIT_SECONDS,
        samples,
        limit_seconds=LIMIT_SECONDS,
    )


def one_rollout(stage: Stage) -> float:
    """Return the seconds from the start of all replicas to the end of the last one."""
    with stage.database(initialized=False) as database:
        variables = environment(
            EXAMPLE,
            DJANGO_SETTINGS_MODULE="mysite.settings",
            DATABASE_URL=stage.server().url(database.name),
            SHOP_SLOW_SECONDS="0",
        )
        with Fleet(REPLICAS, 1, folder=EXAMPLE, environment=variables) as replicas:
            started = replicas.go()
            ends = replicas.until_done()
    if sorted(leaders(ends)) != [False] * (REPLICAS - 1) + [True]:
        raise AssertionError(f"not ready with one leader: {ends}")
    return float(max(end["at"] for end in ends)) - started


def leaders(ends: list[dict[str, Any]]) -> list[bool]:
    """Return for each replica that succeeded whether it led."""
    return [end["role"] == "leader" for end in ends if not end["error"]]
