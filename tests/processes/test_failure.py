"""Failed migrations: every waiting replica fails once, with the leader's reason."""

from __future__ import annotations

import pytest

from tests.processes.harness import Fleet, entries, exit_codes
from tests.support import Database, wait_until

SAFE = ["safe_migrate", "--json"]


def test_waiters_share_the_failure(fleet: Fleet, database: Database) -> None:
    """Ten waiters exit 1 with the leader's reason; the migration runs once."""
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
    assert len(fleet.notes("inside")) == 1
    assert database.applied_once() == ["shop.0001_initial"]
    assert entries(database) == []


@pytest.mark.smoke
def test_waiters_share_findings(fleet: Fleet, database: Database) -> None:
    """All replicas exit 1 if validation finds a missing column, and are ready after its repair."""
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


@pytest.mark.parametrize("engine", ["fleet", "lite_fleet"])
def test_a_successor_inherits_the_baseline(
    request: pytest.FixtureRequest, engine: str
) -> None:
    """A leader dies after its migration dropped a column: its successor fails for that column.

    Each later start fails too, `migrate` included, until the column is back.
    """
    replicas: Fleet = request.getfixturevalue(engine)
    replicas.allow()
    replicas.use(scenario="lacking", kill_at="apply_success shop.0002_lacking")
    assert replicas.run(*SAFE).wait() == 137, replicas
    for command in (SAFE, ["migrate"], [*SAFE, "--check"]):
        ended = replicas.run(*command)
        assert ended.wait() == 1, ended
    assert [run["outcome"] for run in replicas.database.runs()] == [
        "abandoned",
        "failed",
        "failed",
    ]
    replicas.database.rows("ALTER TABLE shop_product ADD COLUMN name text")
    assert replicas.run(*SAFE).wait() == 0, replicas


@pytest.mark.parametrize("engine", ["fleet", "lite_fleet"])
def test_drift_from_before_this_package(
    request: pytest.FixtureRequest, engine: str
) -> None:
    """A column that was dropped by hand long ago does not stop the first start."""
    replicas: Fleet = request.getfixturevalue(engine)
    replicas.allow()
    replicas.use(scenario="lacking")
    assert replicas.run("migrate", "shop", "0001", apps=()).wait() == 0, replicas
    replicas.database.rows("ALTER TABLE shop_product DROP COLUMN name")
    assert replicas.run("migrate", "--fake", "shop", apps=()).wait() == 0, replicas
    started = replicas.start_together(*[SAFE] * 3)
    assert exit_codes(started) == [0] * 3, replicas
    assert replicas.run("migrate").wait() == 0, replicas
    assert replicas.run(*SAFE, "--check").wait() == 0, replicas
    assert replicas.run("safe_init_validate").wait() == 1, replicas
    assert {run["outcome"] for run in replicas.database.runs()} == {"ready"}


@pytest.mark.smoke
def test_a_later_start_tries_again(fleet: Fleet, database: Database) -> None:
    """A new start runs a failed migration again."""
    fleet.use(scenario="failing")
    fleet.allow()
    assert fleet.run(*SAFE).wait() == 1, fleet
    again = fleet.run(*SAFE)
    assert (again.wait(), again.json["role"]) == (1, "leader"), again
    assert len(fleet.notes("inside")) == 2
    assert [run["outcome"] for run in database.runs()] == ["failed", "failed"]


def test_migrate_raises_the_error(fleet: Fleet, database: Database) -> None:
    """`migrate` raises the migration's error and closes its run with this error."""
    fleet.use(scenario="failing")
    fleet.tracebacks = True
    fleet.allow()
    failed = fleet.run("migrate")
    assert failed.wait() == 1, failed
    assert "ValueError: product 7 has no price" in failed.stderr
    assert database.newest_run()["outcome"] == "failed"


def test_transient(fleet: Fleet, database: Database) -> None:
    """If the leader fails with a serialization error, a waiter takes over instead of failing."""
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
    """A migration that kills its process kills three; the others exit 1 and name the migration."""
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
