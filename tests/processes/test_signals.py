"""SIGTERM, SIGINT and the command after `--`, in an ordinary process and as PID 1."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from django_safe_init.backends.postgresql.lock_keys import leader_key
from tests.processes import namespaces
from tests.processes.harness import Fleet, entries, exit_codes
from tests.support import Database, wait_until

SAFE = ["safe_migrate", "--json"]
SLEEPING = "state = 'active' AND query LIKE '%pg_sleep%'"
#: A command that prints its process id, and exits with 7 on SIGTERM.
SERVE = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
print("serving as", os.getpid(), flush=True)
signal.pause()
"""
COMMAND = ["--", sys.executable, "-c", SERVE]


@pytest.fixture(params=["postgresql", "sqlite"])
def either(request: pytest.FixtureRequest) -> Fleet:
    """Return a fleet on PostgreSQL, and one on SQLite."""
    name = "fleet" if request.param == "postgresql" else "lite_fleet"
    fleet: Fleet = request.getfixturevalue(name)
    return fleet


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.smoke), signal.SIGINT]
)
def test_leader_is_told_to_end(
    fleet: Fleet, database: Database, number: signal.Signals
) -> None:
    """A leader that gets a signal closes its run as interrupted, and a follower takes over."""
    fleet.use(scenario="gated")
    started = fleet.start_together(SAFE, SAFE, SAFE)
    fleet.wait_for_note("inside")
    fleet.wait_for_followers(2)
    leader = fleet.leader()
    leader.kill(number)
    assert leader.wait() == 128 + number, leader
    assert (leader.json["result"], leader.json["role"]) == ("interrupted", "leader")
    fleet.wait_for_note("inside", 2)
    fleet.allow()
    assert sorted(exit_codes(started)) == [0, 0, 128 + number], fleet
    assert entries(database) == ["gate", "data"]
    interrupted = database.runs()[0]
    assert interrupted["outcome"] == "interrupted"


def test_three_starts_that_time_out(either: Fleet) -> None:
    """The third start in a row that a signal ends says so, and names the time-outs to raise.

    The status, a follower and the process itself say the same.
    """
    either.use(scenario="gated")
    for number in (1, 2, 3):
        leader = either.start("safe_migrate")
        either.wait_for_note("inside", number)
        if number == 3:
            follower = either.start(*SAFE)
            either.wait_for_followers(1)
        leader.kill(signal.SIGTERM)
        assert leader.wait() == 143, leader
        assert ("times in a row" in leader.stderr) == (number == 3), leader
    error = either.database.newest_run()["error"]
    assert error.startswith("3 times in a row, the last time: ")
    assert (
        "ended by SIGTERM. If a start time-out ended these processes, raise it" in error
    )
    for name in (
        "TimeoutStartSec",
        "healthCheckGracePeriodSeconds",
        "startTimeout",
        "startupProbe",
    ):
        assert name in error
    assert f"run 3 failed: {error}" in leader.stderr
    assert follower.wait() == 1, follower
    assert follower.json["error"].endswith(f" failed: {error}")
    status = either.run("safe_init_status")
    assert status.wait() == 1, status
    assert error in status.stdout


@pytest.mark.parametrize("atomic", ["1", "0"], ids=["atomic", "non-atomic"])
def test_long_statement_is_cancelled(
    fleet: Fleet, database: Database, atomic: str
) -> None:
    """SIGTERM cancels the leader's statement, rolls it back and frees the lock."""
    fleet.use(scenario="statement", atomic=atomic)
    leader = fleet.start(*SAFE)
    fleet.wait_until(lambda: database.backends(SLEEPING), "the statement runs")
    leader.kill(signal.SIGTERM)
    assert leader.wait() == 143, leader
    assert database.holders(leader_key()) == []
    assert database.backends(SLEEPING) == []
    assert database.newest_run()["outcome"] == "interrupted"
    assert fleet.run("safe_migrate").wait() == 0, fleet
    assert entries(database) == ["successor"]


def test_follower_is_told_to_end(fleet: Fleet, database: Database) -> None:
    """A follower that gets a signal exits, and the leader continues."""
    fleet.use(scenario="gated")
    leader = fleet.start(*SAFE)
    fleet.wait_for_note("inside")
    follower = fleet.start(*SAFE)
    fleet.wait_for_followers(1)
    follower.kill(signal.SIGTERM)
    assert follower.wait() == 143, follower
    assert (follower.json["result"], follower.json["role"]) == (
        "interrupted",
        "follower",
    )
    fleet.allow()
    assert leader.wait() == 0, leader
    assert [run["outcome"] for run in database.runs()] == ["ready"]


def test_migrate_is_told_to_end(fleet: Fleet, database: Database) -> None:
    """`migrate` also closes its run as interrupted."""
    fleet.use(scenario="gated")
    leader = fleet.start("migrate")
    fleet.wait_for_note("inside")
    leader.kill(signal.SIGTERM)
    assert leader.wait() == 143, leader
    assert database.newest_run()["outcome"] == "interrupted"
    assert database.holders(leader_key()) == []


@pytest.mark.smoke
def test_becomes_the_command(fleet: Fleet, database: Database) -> None:
    """Once ready, the process becomes the command: it keeps its process id and gets the signals."""
    replica = fleet.start("safe_migrate", *COMMAND)
    wait_until(
        lambda: f"serving as {replica.pid}" in replica.stdout, message=repr(replica)
    )
    assert len(database.applied_once()) == 5
    wait_until(
        lambda: database.backends() == []
    )  # the server needs a moment to end a session
    replica.kill(signal.SIGTERM)
    assert replica.wait() == 7, replica


def test_failure_runs_no_command(fleet: Fleet, database: Database) -> None:
    """The command does not run after a failed initialization."""
    fleet.use(scenario="failing")
    fleet.allow()
    replica = fleet.run("safe_migrate", *COMMAND)
    assert replica.wait() == 1, replica
    assert "serving" not in replica.stdout


def test_pid_one_is_told_to_end(fleet: Fleet, database: Database) -> None:
    """As PID 1 of a container, `safe_migrate` ends on SIGTERM during a migration."""
    fleet.use(scenario="gated")
    container = fleet.start(*SAFE, wrapper=namespaces.wrapper())
    fleet.wait_for_note("inside")
    assert database.newest_run()["leader"].endswith(":1")
    os.kill(namespaces.pid_one(container), signal.SIGTERM)
    assert container.wait() == 143, container
    assert container.json["result"] == "interrupted"
    assert database.newest_run()["outcome"] == "interrupted"


def test_pid_one_becomes_the_command(fleet: Fleet, database: Database) -> None:
    """As PID 1, `safe_migrate` becomes the command, which is PID 1 and gets SIGTERM."""
    container = fleet.start("safe_migrate", *COMMAND, wrapper=namespaces.wrapper())
    wait_until(lambda: "serving as 1" in container.stdout, message=repr(container))
    os.kill(namespaces.pid_one(container), signal.SIGTERM)
    assert container.wait() == 7, container
