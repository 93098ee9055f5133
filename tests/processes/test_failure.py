"""Migrations that fail: once for all who wait, with the reason."""

from __future__ import annotations

import pytest

from tests.processes.harness import Fleet, entries, exit_codes
from tests.support import Database, wait_until

SAFE = ["safe_migrate", "--json"]


def test_waiters_share_the_failure(fleet: Fleet, database: Database) -> None:
    """Ten waiters exit 1 with the leader's reason within a second; the migration ran once."""
    fleet.use(scenario="failing")
    started = fleet.start_together(*[SAFE] * 11)
    fleet.wait_for_note("inside")
    fleet.wait_for_followers(10)
    fleet.allow()
    assert exit_codes(started) == [1] * 11, fleet
    (run,) = database.runs()
    assert (run["outcome"], run["state"]) == ("failed", "error")
    assert "product 7 has no price" in run["error"]
    for replica in started:
        assert replica.json["result"] == "failed"
        assert "product 7 has no price" in replica.json["error"]
        assert replica.written_at - run["finished_at"].timestamp() < 1
    assert len(fleet.notes("inside")) == 1
    assert database.applied_once() == ["shop.0001_initial"]
    assert entries(database) == []


@pytest.mark.smoke
def test_waiters_share_what_validation_finds(fleet: Fleet, database: Database) -> None:
    """When the work is done and the models lack something, nobody starts; repaired, all do."""
    fleet.use(scenario="lacking")
    started = fleet.start_together(*[SAFE] * 4)
    fleet.wait_for_note("inside")
    fleet.wait_for_followers(3)
    fleet.allow()
    assert exit_codes(started) == [1] * 4, fleet
    (run,) = database.runs()
    assert (run["outcome"], run["state"]) == ("failed", "error")
    reason = "The table shop_product of shop.Product has no column name."
    assert all(reason in replica.json["error"] for replica in started)
    found = fleet.run("safe_init_validate", "--json")
    assert found.wait() == 1, found
    [finding] = found.json["databases"][0]["findings"]
    assert finding["message"] == reason
    for statement in finding["repair"]:
        database.rows(statement)
    assert exit_codes(fleet.start_together(*[SAFE] * 3)) == [0] * 3, fleet
    assert database.applied_once() == ["shop.0001_initial", "shop.0002_lacking"]


@pytest.mark.smoke
def test_a_later_start_tries_again(fleet: Fleet, database: Database) -> None:
    """A failure of the past is no verdict: the next start runs the migration again."""
    fleet.use(scenario="failing")
    fleet.allow()
    assert fleet.run(*SAFE).wait() == 1, fleet
    again = fleet.run(*SAFE)
    assert (again.wait(), again.json["role"]) == (1, "leader"), again
    assert len(fleet.notes("inside")) == 2
    assert [run["outcome"] for run in database.runs()] == ["failed", "failed"]


def test_migrate_shows_what_django_shows(fleet: Fleet, database: Database) -> None:
    """`migrate` raises what the migration raised; its run is closed with that error."""
    fleet.use(scenario="failing")
    fleet.tracebacks = True
    fleet.allow()
    failed = fleet.run("migrate")
    assert failed.wait() == 1, failed
    assert "ValueError: product 7 has no price" in failed.stderr
    assert database.newest_run()["outcome"] == "failed"


def test_transient(fleet: Fleet, database: Database) -> None:
    """When the leader could not serialize, a waiter does the work instead of failing."""
    fleet.use(scenario="transient")
    started = fleet.start_together(*[SAFE] * 4)
    fleet.wait_for_note("inside")
    fleet.wait_for_followers(3)
    leader = fleet.leader()
    fleet.allow()
    codes = exit_codes(started)
    assert [replica for replica, code in zip(started, codes, strict=True) if code] == [
        leader
    ], fleet
    assert leader.wait() == 1
    assert "could not serialize" in leader.json["error"]
    assert [run["outcome"] for run in database.runs()] == ["transient", "ready"]
    assert entries(database) == ["serialized"]


def test_migration_that_kills_its_process(fleet: Fleet, database: Database) -> None:
    """A migration that kills whoever runs it kills three; the others exit 1 and say why."""
    fleet.use(scenario="deadly")
    started = fleet.start_together(*[SAFE] * 6)
    assert sorted(exit_codes(started)) == [1, 1, 1, 137, 137, 137], fleet
    assert len(fleet.notes("dies")) == 3
    survivors = [replica for replica in started if replica.wait() == 1]
    for survivor in survivors:
        assert survivor.json["result"] == "failed"
        assert "shop.0002_deadly" in survivor.json["error"]
    assert database.applied_once() == ["shop.0001_initial"]
    wait_until(lambda: not database.backends(), message="nobody is connected")
