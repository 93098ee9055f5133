"""A leader whose process is stopped: replaced with `STALLED_AFTER`, only named without it."""

from __future__ import annotations

import pytest

from django_safe_init.backends.postgresql.lock_keys import leader_key, work_key
from tests.processes.harness import Fleet, entries, exit_codes
from tests.support import Database

SAFE, STOCK = ["safe_migrate", "--json"], ["migrate"]
SLEEPING = "state = 'active' AND query LIKE '%pg_sleep%'"
AFTER = 10


def silence_before_takeover(database: Database) -> float:
    """Return the seconds from the first leader's last heartbeat to the start of the second run."""
    first, second = database.runs()[:2]
    return (second["started_at"] - first["heartbeat_at"]).total_seconds()


@pytest.mark.parametrize(
    ("restarts", "code"), [(3, 0), (0, 5)], ids=["follows", "gives up"]
)
def test_stopped_between_statements(
    fleet: Fleet, database: Database, restarts: int, code: int
) -> None:
    """Followers take over from a stopped leader, which writes nothing when it continues."""
    fleet.use(scenario="gated")
    fleet.use(safe_init={"STALLED_AFTER": AFTER, "RESTARTS": restarts})
    started = fleet.start_together(SAFE, SAFE, STOCK)
    fleet.wait_for_note("inside")
    fleet.wait_for_followers(2)
    old = fleet.leader()
    with old.stopped():
        fleet.wait_for_note("inside", 2)
        assert AFTER <= silence_before_takeover(database) < AFTER + 5
        assert len(database.holders(leader_key())) == 1
        assert len(database.holders(work_key())) == 1
        abandoned = database.runs()[0]
    fleet.allow()
    others = [replica for replica in started if replica is not old]
    assert exit_codes(others) == [0, 0], fleet
    assert old.wait() == code, old
    assert database.runs()[0] == abandoned
    assert entries(database) == ["gate", "data"]
    assert len(database.applied_once()) == 3


def test_stopped_inside_a_statement(fleet: Fleet, database: Database) -> None:
    """The statement of a stopped leader ends before its successor starts, and never finishes."""
    fleet.use(scenario="statement", atomic="0", safe_init={"STALLED_AFTER": AFTER})
    started = fleet.start_together(SAFE, SAFE)
    fleet.wait_for_followers(1)
    fleet.wait_until(lambda: database.backends(SLEEPING), "the statement runs")
    with fleet.leader().stopped():
        assert [text for _, text in fleet.wait_for_note("successor")] == [
            "successor, still running: 0"
        ]
        assert AFTER <= silence_before_takeover(database) < AFTER + 5
    assert exit_codes(started) == [0, 0], fleet
    assert entries(database) == ["successor"]


def test_stopped_with_our_tables_locked(fleet: Fleet, database: Database) -> None:
    """A follower takes over although a stopped leader's migration locks the status tables."""
    fleet.use(scenario="locking", gated="1", after="0")
    fleet.use(safe_init={"STALLED_AFTER": AFTER})
    started = fleet.start_together(SAFE)
    fleet.wait_for_note("before")
    fleet.allow("lock")
    fleet.wait_for_note("inside")
    with started[0].stopped():
        started.append(fleet.start(*SAFE))
        fleet.wait_for_note("inside", 2)
    fleet.allow()
    assert exit_codes(started) == [0, 0], fleet
    assert entries(database) == ["locking"]


def test_a_leader_at_work_is_not_stalled(fleet: Fleet, database: Database) -> None:
    """A leader whose migration locks the status tables beyond `STALLED_AFTER` keeps leading."""
    fleet.use(scenario="locking", gated="1", after="0")
    fleet.use(safe_init={"STALLED_AFTER": AFTER})
    started = fleet.start_together(SAFE, SAFE)
    fleet.wait_for_followers(1)
    fleet.allow("lock")
    fleet.wait_for_note("inside")
    (leader,) = database.holders(leader_key())
    late = fleet.start(*SAFE)
    enough = f"SELECT clock_timestamp() + interval '{AFTER + 5} s' AS until"
    until = database.value(enough)
    over = "SELECT clock_timestamp() > %s"
    fleet.wait_until(lambda: database.value(over, until), "longer than that")
    assert database.holders(leader_key()) == [leader]
    fleet.allow()
    assert exit_codes([*started, late]) == [0, 0, 0], fleet
    assert len(fleet.notes("inside")) == 1
    assert [run["outcome"] for run in database.runs()] == ["ready"]


def test_off(fleet: Fleet, database: Database) -> None:
    """Without `STALLED_AFTER` followers give up and print the remedy; the leader continues."""
    fleet.use(scenario="gated")
    leader = fleet.start(*SAFE)
    fleet.wait_for_note("inside")
    with leader.stopped():
        waiting = [
            fleet.start(*command, safe_init={"WAIT_TIMEOUT": 2})
            for command in (SAFE, STOCK)
        ]
        assert exit_codes(waiting) == [3, 3], fleet
        (session,) = database.holders(leader_key())
        for replica in waiting:
            said = replica.stdout + replica.stderr
            assert "Gave up: no progress for 2 s. waiting for " in said
            assert "python manage.py safe_init_unlock" in said
            assert f"SELECT pg_terminate_backend({session});" in said
    fleet.allow()
    assert leader.wait() == 0, leader
    assert [run["outcome"] for run in database.runs()] == ["ready"]
