"""Two versions of this package in one rollout: they read and write the same tables.

Their builds differ, because the version is part of a build: each wants a run of its own.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from django_safe_init.core.columns import COLUMNS
from tests.processes import older
from tests.processes.harness import Fleet, Replica, entries, exit_codes
from tests.support import Database

SAFE, STATUS = ["safe_migrate", "--json"], ["safe_init_status", "--json"]
NEW: dict[str, Any] = {}
MIGRATIONS = 5


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a replica needs to run the older version."""
    folder = older.install(tmp_path_factory.mktemp("older"))
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    # Whether the older version's lines are covered is no question.
    unmeasured = dict.fromkeys(("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"))
    return {"env": {**unmeasured, "PYTHONPATH": path}}


def missing_columns(database: Database) -> dict[str, list[str]]:
    """The columns of this version that the tables lack."""
    query = "SELECT column_name FROM information_schema.columns WHERE table_name = %s"
    missing = {}
    for table, columns in COLUMNS.items():
        present = {row["column_name"] for row in database.rows(query, table)}
        if lacking := sorted(columns.keys() - present):
            missing[table] = lacking
    return missing


def versions(database: Database) -> list[str]:
    return [run["version"] for run in database.runs()]


def assert_ready(*replicas: Replica) -> None:
    for replica in replicas:
        assert replica.wait() == 0, replica
        assert "ERROR" not in replica.stderr, replica


def shown(fleet: Fleet, **version: Any) -> dict[str, Any]:
    """What that version's `safe_init_status` says, the last runs included."""
    status = fleet.run(*STATUS, "--history", "9", **version)
    assert "Traceback" not in status.stderr, status
    return status.json


def test_the_older_version_first(
    fleet: Fleet, database: Database, old: dict[str, Any]
) -> None:
    """The newer version reads the older tables as they are, and adds what they lack as leader."""
    assert_ready(fleet.run(*SAFE, **old))
    assert missing_columns(database) == older.UNKNOWN
    assert shown(fleet, **NEW)["ready"]
    assert missing_columns(database) == older.UNKNOWN, "reading has changed the tables"
    new = fleet.run(*SAFE, **NEW)
    assert_ready(new)
    assert (new.json["role"], new.json["applied"]) == ("leader", [])
    assert missing_columns(database) == {}
    assert versions(database)[0] == older.VERSION != versions(database)[1]
    assert len(shown(fleet, **old)["history"]) == 2
    assert [run["progress"] for run in shown(fleet, **NEW)["history"]] == [100, 0]
    again = [fleet.run(*SAFE, **old), fleet.run(*SAFE, **NEW)]
    assert_ready(*again)
    assert [replica.json["role"] for replica in again] == ["none", "none"]


def test_the_newer_version_first(
    fleet: Fleet, database: Database, old: dict[str, Any]
) -> None:
    """The older version ignores the columns that it does not know, and they have defaults."""
    assert_ready(fleet.run(*SAFE, **NEW))
    assert shown(fleet, **old)["ready"]
    second = fleet.run(*SAFE, **old)
    assert_ready(second)
    assert (second.json["role"], second.json["applied"]) == ("leader", [])
    assert missing_columns(database) == {}
    assert [run["progress"] for run in database.runs()] == [100, 0]
    for version in (old, NEW):
        history = shown(fleet, **version)["history"]
        assert [run["outcome"] for run in history] == ["ready", "ready"]
        again = fleet.run(*SAFE, **version)
        assert_ready(again)
        assert again.json["role"] == "none"


def test_both_at_once(fleet: Fleet, database: Database, old: dict[str, Any]) -> None:
    """Fleets of both versions start together: all are ready, all of it ran once, none loops."""
    first = fleet.start_together(SAFE, SAFE, SAFE, **old)
    second = fleet.start_together(SAFE, SAFE, SAFE, **NEW)
    assert_ready(*first, *second)
    assert len(database.applied_once()) == MIGRATIONS
    assert entries(database) == ["data"]
    for version in (old, NEW):
        fleet.run(*SAFE, **version)
    runs = database.runs()
    # Each build has had its run: a follower that was made ready by the other led now.
    assert [run["outcome"] for run in runs] == ["ready"] * 2
    again = [*fleet.start_together(SAFE, SAFE, **old), *fleet.start_together(SAFE)]
    assert_ready(*again)
    assert {replica.json["role"] for replica in again} == {"none"}
    assert database.runs() == runs


@pytest.mark.parametrize("first", ["old", "new"])
def test_one_takes_over_from_the_other(
    fleet: Fleet, database: Database, old: dict[str, Any], first: str
) -> None:
    """A leader of one version is seen, followed, and replaced when it dies, by the other."""
    fleet.use(scenario="gated")
    leading, following = (old, NEW) if first == "old" else (NEW, old)
    leader = fleet.start(*SAFE, **leading)
    fleet.wait_for_note("inside")
    follower = fleet.start(*SAFE, **following)
    fleet.wait_for_followers(1)
    for version in (old, NEW):
        status = shown(fleet, **version)
        assert (status["state"], status["led"]) == ("migrating", True)
        assert status["run"]["message"] == "shop.0002_gate"
    leader.kill()
    fleet.wait_for_note("inside", 2)
    fleet.allow()
    assert_ready(follower)
    assert follower.json["role"] == "leader"
    assert missing_columns(database) == {}
    assert [run["outcome"] for run in database.runs()] == ["abandoned", "ready"]
    assert_ready(fleet.run(*SAFE, **leading))
    assert entries(database) == ["gate", "data"]
    assert exit_codes([leader]) == [137]
