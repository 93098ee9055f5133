"""The delay of a fleet after its leader finishes, and after its leader is killed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from statistics import median
from typing import Any

from tests.support import Database, wait_until

from .processes import PATIENCE, Fleet, Group
from .project import HELD
from .report import Figure
from .stage import ROOMY, SCARCE, Stage

#: The time before anything happens, in seconds. After it all waiters listen, and those with polling
#: have reached their longest interval.
SETTLE_SECONDS = 8.0

STARTED = """
    SELECT extract(epoch FROM step.started_at)::float
    FROM django_safe_init_step AS step
    WHERE step.name = 'held.0001_held' AND step.run_id > %s
"""


def many_waiters(stage: Stage, rounds: int = 5) -> Figure:
    """100 waiters, each a process: the last one ready after the leader's end.

    The time for which a fleet of usual size waits after the last migration.
    """
    return last_ready(stage, rounds, (100, 1), ROOMY, 0.25)


def more_waiters_than_slots(stage: Stage, rounds: int = 5) -> Figure:
    """300 waiters with 100 connection slots: the last one ready, and none fails.

    More replicas than the database server has connections. The replicas take turns and never
    exclude the leader.
    """
    return last_ready(stage, rounds, (10, 30), SCARCE, 4.0)


def last_ready(
    stage: Stage, rounds: int, shape: tuple[int, int], slots: int, limit: float
) -> Figure:
    samples, failures = [], Counter[str]()
    for _ in range(rounds):
        waited, failed = one_release(stage, shape, slots)
        samples.append(waited)
        failures.update(failed)
    count = shape[0] * shape[1]
    return Figure(
        f"{count} waiters, {slots} slots: last ready after the leader's end",
        f"{median(samples):.3f} s",
        f"{limit} s, none failed",
        median(samples) <= limit and not failures,
        samples,
        limit_seconds=limit,
        notes=[f"{times} failed: {reason}" for reason, times in failures.items()],
    )


def one_release(
    stage: Stage, shape: tuple[int, int], slots: int
) -> tuple[float, list[str]]:
    """Return the seconds from the leader's end to the last waiter's, and the failures."""
    gate = stage.folder / f"gate_{os.urandom(4).hex()}"
    with stage.database(slots, initialized=True) as database:
        environment = held(stage, database, BENCHMARK_GATE=str(gate))
        with leader(stage, environment) as leading:
            until_held(database, leading)
            with fleet(stage, shape, environment) as waiters:
                waiters.go()
                waiters.until_waiting()
                time.sleep(SETTLE_SECONDS)
                gate.touch()
                ends = waiters.until_done()
            leading.finish()
        return last_end(ends) - leader_end(database), failures_of(ends)


def takeover(stage: Stage, rounds: int = 5) -> Figure:
    """SIGKILL of the leader in a statement of 60 s, with free slots: a successor works.

    The time from the kill until another process migrates. The dead leader's statement has ended by
    then.
    """
    return successor(stage, rounds, (5, 1), ROOMY, 1.0)


def takeover_without_slots(stage: Stage, rounds: int = 5) -> Figure:
    """SIGKILL of the leader while 300 waiters want the 100 slots: a successor works.

    The same time if the successor must first get a connection.
    """
    return successor(stage, rounds, (10, 30), SCARCE, 2.0)


def successor(
    stage: Stage, rounds: int, shape: tuple[int, int], slots: int, limit: float
) -> Figure:
    samples = [one_kill(stage, shape, slots) for _ in range(rounds)]
    migrating = [first for first, _ in samples]
    steps = median(second for _, second in samples)
    return Figure(
        f"leader killed, {shape[0] * shape[1]} waiters, {slots} slots: next migrating",
        f"{median(migrating):.3f} s",
        f"{limit} s",
        median(migrating) <= limit,
        migrating,
        limit_seconds=limit,
        notes=[f"the interrupted migration runs again after {steps:.3f} s"],
    )


def one_kill(stage: Stage, shape: tuple[int, int], slots: int) -> tuple[float, float]:
    """Return the seconds from the kill to a successor that migrates, and to its first step."""
    with stage.database(slots, initialized=True) as database:
        environment = held(stage, database)
        with (
            leader(stage, environment) as leading,
            fleet(stage, shape, environment) as waiters,
        ):
            run = until_held(database, leading)
            waiters.go()
            waiters.until_waiting()
            time.sleep(SETTLE_SECONDS)
            killed = time.time()
            os.kill(leading.process.pid, signal.SIGKILL)
            wait_until(lambda: database.rows(STARTED, run), PATIENCE, waiters.errors)
            [migrating] = waiters.reached("migrating")
            return migrating - killed, database.value(STARTED, run) - killed


def held(stage: Stage, database: Database, **extra: str) -> dict[str, str]:
    return stage.project.environment(HELD, database.settings(), **extra)


def leader(stage: Stage, environment: dict[str, str]) -> Group:
    root = stage.project.root
    return Group("manage.py", "safe_migrate", folder=root, environment=environment)


def fleet(stage: Stage, shape: tuple[int, int], environment: dict[str, str]) -> Fleet:
    return Fleet(*shape, folder=stage.project.root, environment=environment)


def until_held(database: Database, leading: Group) -> int:
    """Wait until the leader is inside the held migration. Return its run."""
    wait_until(lambda: database.rows(STARTED, 0), PATIENCE, leading.errors)
    return int(database.newest_run()["id"])


def leader_end(database: Database) -> float:
    finished = (
        "SELECT extract(epoch FROM max(finished_at))::float FROM django_safe_init_run"
    )
    return float(database.value(finished))


def last_end(ends: list[dict[str, Any]]) -> float:
    return float(max(event["at"] for event in ends))


def failures_of(ends: list[dict[str, Any]]) -> list[str]:
    """Return the reasons of failed waiters, including waiters that did not follow."""
    return [
        event["error"] or f"was {event['role']}, not follower"
        for event in ends
        if event["error"] or event["role"] != "follower"
    ]
