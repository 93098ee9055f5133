"""`safe_init_unlock` with a fleet: a follower replaces the leader, and each migration runs once."""

from __future__ import annotations

import pytest

from django_safe_init.backends.postgresql.lock_keys import leader_key, work_key
from tests.processes.harness import Fleet, entries, exit_codes
from tests.support import Database, wait_until

SAFE, STOCK = ["safe_migrate", "--json"], ["migrate"]
UNLOCK = ["safe_init_unlock", "--noinput"]
SLEEPING = "state = 'active' AND query LIKE '%pg_sleep%'"


@pytest.mark.smoke
def test_a_waiter_takes_over(fleet: Fleet, database: Database) -> None:
    """A waiter takes over promptly, and the old leader follows it."""
    fleet.use(scenario="gated")
    started = fleet.start_together(SAFE, SAFE, STOCK)
    ((leader_pid, _),) = fleet.wait_for_note("inside")
    fleet.wait_for_followers(2)
    (session,) = database.holders(leader_key())
    (backend,) = database.holders(work_key())
    leader = database.newest_run()["leader"]
    assert leader.endswith(f":{leader_pid}")
    unlock = fleet.start(*UNLOCK)
    wait_until(lambda: not database.backends(f"pid = {session}"))
    assert unlock.wait() == 0, unlock
    assert f"the leader {leader} of run 1 " in unlock.stdout
    for pid in (session, backend):
        assert f"  backend {pid} (" in unlock.stdout
        assert not database.backends(f"pid = {pid}")
    fleet.wait_for_note("inside", 2)
    fleet.allow()
    assert exit_codes(started) == [0, 0, 0], fleet
    assert entries(database) == ["gate", "data"]
    assert len(database.applied_once()) == 3
    again = fleet.run(*UNLOCK)
    assert (again.wait(), again.stdout) == (
        0,
        "default: nobody holds the leader lock\n",
    )


def test_a_stopped_leader_inside_a_statement(fleet: Fleet, database: Database) -> None:
    """`safe_init_unlock` describes and ends a stopped leader together with its statement."""
    fleet.use(scenario="statement", atomic="1")
    started = fleet.start_together(SAFE, SAFE)
    fleet.wait_for_followers(1)
    fleet.wait_until(lambda: database.backends(SLEEPING), "the statement runs")
    stopped = fleet.leader()
    with stopped.stopped():
        unlock = fleet.run(*UNLOCK)
        assert unlock.wait() == 0, unlock
        assert "pg_sleep" in unlock.stdout
        fleet.wait_for_note("successor")
    assert exit_codes(started) == [0, 0], fleet
    assert entries(database) == ["successor"]


def test_without_a_terminal(fleet: Fleet, database: Database) -> None:
    """Without a terminal and without `--noinput`, `safe_init_unlock` ends nothing and exits 1."""
    fleet.use(scenario="gated")
    leader = fleet.start(*SAFE)
    fleet.wait_for_note("inside")
    refused = fleet.run("safe_init_unlock")
    assert refused.wait() == 1, refused
    assert "Nothing was ended: there is no terminal" in refused.stderr
    fleet.allow()
    assert leader.wait() == 0, leader
    assert [run["outcome"] for run in database.runs()] == ["ready"]
