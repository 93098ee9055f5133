"""Replicas that start, wait or lead while a standby replaces the primary."""

from __future__ import annotations

import pytest

from tests.processes.harness import Fleet, entries, exit_codes
from tests.streaming import StreamingPair
from tests.support import Database

SAFE, STOCK = ["safe_migrate", "--json"], ["migrate"]
WAITING = "waiting for the primary"


@pytest.fixture
def database(switched_database: Database) -> Database:
    """Return a database whose primary the test may switch."""
    return switched_database


def wait_for_line(fleet: Fleet, text: str, replicas: int) -> None:
    """Wait until so many replicas have printed the text."""
    fleet.wait_until(
        lambda: sum(text in each.stderr for each in fleet.replicas) >= replicas,
        f"{replicas} times {text!r}",
    )


def test_start_during_a_switchover(
    fleet: Fleet, database: Database, pair: StreamingPair
) -> None:
    """Processes that start on the standby wait until it is promoted, and then initialize."""
    pair.begin_switchover()
    started = fleet.start_together(SAFE, SAFE, STOCK)
    wait_for_line(fleet, WAITING, 3)
    pair.end_switchover()
    assert exit_codes(started) == [0, 0, 0], fleet
    assert len(database.applied_once()) == 5


def test_switchover_during_a_run(
    fleet: Fleet, database: Database, pair: StreamingPair
) -> None:
    """A leader and its followers survive a switchover in the middle of a migration."""
    fleet.use(scenario="gated")
    started = fleet.start_together(SAFE, SAFE, STOCK)
    fleet.wait_for_note("inside")
    fleet.wait_for_followers(2)
    database.close()
    pair.begin_switchover()
    wait_for_line(fleet, WAITING, 1)
    pair.end_switchover()
    fleet.wait_for_note("inside", 2)
    fleet.allow()
    assert exit_codes(started) == [0, 0, 0], fleet
    assert len(database.applied_once()) == 3
    assert entries(database) == ["gate", "data"]
    assert database.newest_run()["outcome"] == "ready"


def test_a_primary_that_becomes_read_only(
    fleet: Fleet, database: Database, pair: StreamingPair
) -> None:
    """A run that meets a read-only primary starts over once the primary takes writes again."""
    fleet.use(scenario="gated")
    started = fleet.start_together(SAFE, SAFE)
    fleet.wait_for_note("inside")
    fleet.wait_for_followers(1)
    pair.primary.configure({"default_transaction_read_only": "on"})
    fleet.allow()
    wait_for_line(fleet, WAITING, 1)
    pair.primary.configure({"default_transaction_read_only": "off"})
    assert exit_codes(started) == [0, 0], fleet
    assert len(database.applied_once()) == 3
    assert entries(database) == ["gate", "data"]


def test_multiple_hosts(fleet: Fleet, database: Database, pair: StreamingPair) -> None:
    """With several hosts in HOST, replicas find the new primary without a load balancer."""
    ports = f"{pair.primary.port},{pair.standby.port}"
    fleet.use(
        scenario="gated",
        database_settings={
            "HOST": f"{pair.primary.host},{pair.standby.host}",
            "PORT": ports,
            "OPTIONS": {"target_session_attrs": "read-write"},
        },
    )
    started = fleet.start_together(SAFE, SAFE)
    fleet.wait_for_note("inside")
    fleet.wait_for_followers(1)
    database.close()
    pair.begin_switchover()
    pair.end_switchover()
    fleet.wait_for_note("inside", 2)
    fleet.allow()
    assert exit_codes(started) == [0, 0], fleet
    assert entries(database) == ["gate", "data"]


def test_a_standby_that_stays_one(
    fleet: Fleet, database: Database, pair: StreamingPair
) -> None:
    """A process on a standby that is not promoted exits with 2 after `CONNECT_ATTEMPTS`."""
    pair.switch.target = pair.standby
    fleet.use(safe_init={"CONNECT_ATTEMPTS": 2})
    started = [fleet.run(*SAFE), fleet.run(*STOCK)]
    assert exit_codes(started) == [2, 2], fleet
    assert started[0].json["result"] == "unsafe"
    assert "read-only standby" in started[1].stderr


def test_waiting_on_a_standby(
    fleet: Fleet, database: Database, pair: StreamingPair
) -> None:
    """A process that only waits may read from a standby, where no session can LISTEN."""
    waiting = fleet.start(
        *("safe_init_status", "--wait", "--json"),
        database_settings={"PORT": str(pair.standby.port)},
    )
    fleet.wait_for_followers(1)
    assert fleet.run(*SAFE).wait() == 0, fleet
    assert waiting.wait() == 0, fleet


def test_a_failover_that_loses_a_run(
    fleet: Fleet, database: Database, pair: StreamingPair
) -> None:
    """Followers of a run that a failover has lost follow the next run, of the same id."""
    pair.lose_the_tail()
    fleet.use(scenario="gated")
    started = fleet.start_together(SAFE, SAFE, STOCK)
    fleet.wait_for_note("inside")
    fleet.wait_for_followers(2)
    lost = database.newest_run()
    database.close()
    pair.fail_over()
    fleet.wait_for_note("inside", 2)
    again = database.newest_run()
    assert (again["id"], again["outcome"]) == (lost["id"], None)
    assert again["started_at"] > lost["started_at"]
    fleet.allow()
    assert exit_codes(started) == [0, 0, 0], fleet
    assert len(database.applied_once()) == 3
    assert entries(database) == ["gate", "data"]
    assert database.newest_run()["outcome"] == "ready"


def test_a_failover_that_loses_a_finished_run(
    fleet: Fleet, database: Database, pair: StreamingPair
) -> None:
    """Schema and records are lost together, and the next start does the rest."""
    assert fleet.run(*SAFE).wait() == 0, fleet
    before = len(database.runs())
    pair.lose_the_tail()
    fleet.use(scenario="newer")
    newer = fleet.run(*SAFE)
    assert newer.wait() == 0, newer
    applied = database.applied_once()
    database.close()
    pair.fail_over()
    assert len(database.runs()) == before
    assert len(database.applied_once()) < len(applied)
    again = fleet.run(*SAFE)
    assert again.wait() == 0, again
    assert again.json["applied"] == newer.json["applied"]
    assert database.applied_once() == applied
