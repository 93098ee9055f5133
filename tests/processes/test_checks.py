"""System checks that fail: two processes run them, and all learn the result."""

from __future__ import annotations

import pytest

from tests.processes.harness import Fleet, entries, exit_codes
from tests.support import Database, SqliteDatabase

SAFE = ["safe_migrate", "--json"]


@pytest.mark.smoke
def test_eight_replicas(fleet: Fleet, database: Database) -> None:
    """Of eight replicas two run the checks. The others exit 1 with the reason."""
    fleet.use(check="waits")
    started = fleet.start_together(*[SAFE] * 8)
    fleet.wait_for_note("check")
    fleet.wait_for_followers(7)
    fleet.allow("check")
    assert sorted(exit_codes(started)) == [1] * 6 + [2] * 2, fleet
    assert len({pid for pid, _ in fleet.notes("check")}) == 2
    assert [run["outcome"] for run in database.runs()] == ["transient", "failed"]
    assert all("The license is missing." in each.json["error"] for each in started)
    assert database.applied_once() == []


def test_a_slow_replica(fleet: Fleet, database: Database) -> None:
    """A replica that was still loading when the checks failed does not repeat them."""
    slow = fleet.start(*SAFE, check="fails", loads="slowly")
    fleet.wait_for_note("loading")
    fast = [fleet.run(*SAFE, check="fails") for _ in range(2)]
    assert exit_codes(fast) == [2, 2], fleet
    fleet.allow("load")
    assert slow.wait() == 1, slow
    assert "The license is missing." in slow.json["error"]
    assert len(fleet.notes("check")) == 2
    assert fleet.run(*SAFE, check="fails").wait() == 2, fleet
    assert len(fleet.notes("check")) == 3


def test_one_environment(fleet: Fleet, database: Database) -> None:
    """A check that fails in one process's environment does not stop the others."""
    broken = fleet.start(*SAFE, check="waits")
    fleet.wait_for_note("check")
    others = [fleet.start(*SAFE) for _ in range(3)]
    fleet.wait_for_followers(3)
    fleet.allow("check")
    assert exit_codes([broken, *others]) == [2, 0, 0, 0], fleet
    assert [run["outcome"] for run in database.runs()] == ["transient", "ready"]


def test_a_check_that_breaks(fleet: Fleet, database: Database) -> None:
    """A check that raises an error fails the build in the second process, too."""
    fleet.use(check="breaks")
    fleet.tracebacks = True
    assert [fleet.run(*SAFE).wait() for _ in range(3)] == [1, 1, 1], fleet
    outcomes = [run["outcome"] for run in database.runs()]
    assert outcomes == ["transient", "failed", "failed"]
    assert "LookupError: no such plugin" in database.newest_run()["error"]


@pytest.mark.smoke
def test_a_half_migrated_database(fleet: Fleet, database: Database) -> None:
    """A takeover succeeds although a check refuses a half-migrated database."""
    fleet.use(check="half-migrated", kill_at="apply_success shop.0001_initial")
    started = fleet.start_together(SAFE, SAFE, SAFE)
    assert sorted(exit_codes(started)) == [0, 0, 137], fleet
    assert len(fleet.notes("check")) == 1
    assert entries(database) == ["data"]


@pytest.mark.parametrize("first", ["safe_migrate", "migrate"])
@pytest.mark.parametrize("second", ["safe_migrate", "migrate"])
def test_a_later_start(
    fleet: Fleet, database: Database, first: str, second: str
) -> None:
    """A later start continues a half-migrated database that a check refuses."""
    fleet.use(check="half-migrated", kill_at="apply_success shop.0001_initial")
    assert fleet.run(first).wait() == 137, fleet
    assert fleet.run(second).wait() == 0, fleet
    assert len(database.applied_once()) == 5
    assert fleet.run("safe_migrate", "--force").wait() == 0, fleet


def test_migrate_beside_a_leader(fleet: Fleet, database: Database) -> None:
    """`migrate` waits for a leader, although a check refuses what that has half done."""
    fleet.use(scenario="gated", check="half-migrated")
    leader = fleet.start("migrate")
    fleet.wait_for_note("inside")
    others = [fleet.start("migrate") for _ in range(3)]
    fleet.wait_for_followers(3)
    fleet.allow()
    assert exit_codes([leader, *others]) == [0] * 4, fleet
    assert {run["outcome"] for run in database.runs()} == {"ready"}


def test_migrate_records_failed_checks(fleet: Fleet, database: Database) -> None:
    """`migrate` exits 1 with Django's message, and records the failure as `safe_migrate` does."""
    fleet.use(check="fails")
    started = [fleet.run("migrate") for _ in range(2)]
    assert exit_codes(started) == [1, 1], fleet
    for each in started:
        assert "SystemCheckError: System check identified" in each.stderr, each
        assert "The license is missing." in each.stderr, each
    assert [run["outcome"] for run in database.runs()] == ["transient", "failed"]
    assert {run["command"] for run in database.runs()} == {"migrate"}
    status = fleet.run("safe_init_status")
    assert status.wait() == 1, status
    assert "The license is missing." in status.stdout
    assert database.applied_once() == []


def test_on_sqlite(lite_fleet: Fleet, lite: SqliteDatabase) -> None:
    """On SQLite, too, failed checks are recorded, and leave a ready database ready."""
    assert [lite_fleet.run(*SAFE, check="fails").wait() for _ in range(2)] == [2, 2]
    assert [run["outcome"] for run in lite.runs()] == ["transient", "failed"]
    assert lite_fleet.run("safe_init_status").wait() == 1, lite_fleet
    assert lite_fleet.run(*SAFE).wait() == 0, lite_fleet
    for _ in range(2):
        assert lite_fleet.run(*SAFE, "--force", check="fails").wait() == 2
    assert lite.newest_run()["outcome"] == "failed"
    assert lite_fleet.run("safe_init_status").wait() == 0, lite_fleet
