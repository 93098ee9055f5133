"""Two versions of this package in one rollout: they read and write the same tables.

The previous layout has the same version number and columns, so that one run serves both. The
build of the older version differs, and each version needs a run.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from django_safe_init.models import Run, Step
from tests.processes import older
from tests.processes.harness import Fleet, Replica, entries, exit_codes
from tests.support import Database, Records, SqliteDatabase, program, validate_json

SAFE, STOCK = ["safe_migrate", "--json"], ["migrate"]
STATUS, UNLOCK = ["safe_init_status", "--json"], ["safe_init_unlock", "--noinput"]
NEW: dict[str, Any] = {}
MIGRATIONS = 5
#: The smallest value of `STALLED_AFTER`.
AFTER = 10
WHERE = "import django_safe_init; print(django_safe_init.__file__)"


class Pair(NamedTuple):
    """The keywords of `Fleet.start` for the version that leads and for the other one."""

    leading: dict[str, Any]
    other: dict[str, Any]


def as_replica(folder: Path) -> dict[str, Any]:
    """Return the keywords that start a replica with the package in the folder."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return {"env": {**older.UNMEASURED, "PYTHONPATH": path}}


@pytest.fixture(autouse=True)
def _without_receivers(request: pytest.FixtureRequest) -> None:
    """Disconnect the app's receivers: an earlier version keeps no release that allows to skip."""
    for name in {"fleet", "lite_fleet", "either"} & set(request.fixturenames):
        request.getfixturevalue(name).use(receivers="")


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return as_replica(older.install_previous(tmp_path_factory.mktemp("previous")))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return as_replica(older.install_older(tmp_path_factory.mktemp("older")))


@pytest.fixture(params=["previous leads", "new leads"])
def pair(request: pytest.FixtureRequest, previous: dict[str, Any]) -> Pair:
    new_leads = request.param == "new leads"
    return Pair(NEW, previous) if new_leads else Pair(previous, NEW)


@pytest.fixture(params=["postgresql", "sqlite"])
def either(request: pytest.FixtureRequest) -> Fleet:
    """Return a fleet on PostgreSQL, and one on SQLite."""
    name = "fleet" if request.param == "postgresql" else "lite_fleet"
    return request.getfixturevalue(name)


def missing_columns(database: Database) -> dict[str, list[str]]:
    """Return the columns of this version that the tables lack."""
    query = "SELECT column_name FROM information_schema.columns WHERE table_name = %s"
    missing = {}
    for options in (Run._meta, Step._meta):
        present = {row["column_name"] for row in database.rows(query, options.db_table)}
        columns = {field.column for field in options.concrete_fields}
        if lacking := sorted(columns - present):
            missing[options.db_table] = lacking
    return missing


def versions(database: Database) -> list[str]:
    return [run["version"] for run in database.runs()]


def outcomes(database: Records) -> list[str | None]:
    return [run["outcome"] for run in database.runs()]


def assert_ready(*replicas: Replica) -> None:
    for replica in replicas:
        assert replica.wait() == 0, replica
        assert "ERROR" not in replica.stderr, replica


def assert_nothing_to_do(fleet: Fleet, *each_version: dict[str, Any]) -> None:
    """Assert that both versions take the fast path, and open no run."""
    runs = fleet.database.runs()
    again = fleet.start_mixed(*((SAFE, version) for version in each_version))
    assert_ready(*again)
    found = [(replica.json["role"], replica.json["run"]) for replica in again]
    assert found == [("none", runs[-1]["id"])] * 2
    assert fleet.database.runs() == runs


def shown(fleet: Fleet, **version: Any) -> dict[str, Any]:
    """Return the JSON of that version's `safe_init_status`, the last runs included."""
    status = fleet.run(*STATUS, "--history", "9", **version)
    assert "Traceback" not in status.stderr, status
    document: dict[str, Any] = json.loads(status.stdout)
    # An earlier version does not have these keys.
    document.setdefault("schemas", None)
    for run in filter(None, [document["run"], *document["history"]]):
        run.setdefault("operation", None)
        run.setdefault("schemas", None)
    validate_json("safe_init_status", document)
    return document


def start_pair(fleet: Fleet, pair: Pair, note: str = "inside") -> list[Replica]:
    """Start a leader, and a follower of the other version once the leader is at work."""
    leader = fleet.start(*SAFE, **pair.leading)
    fleet.wait_for_note(note)
    follower = fleet.start(*SAFE, **pair.other)
    fleet.wait_for_followers(1)
    return [leader, follower]


# The previous layout


def test_the_previous_layout_runs(fleet: Fleet, previous: Any) -> None:
    """A replica of the previous version imports the wheel, and a new one this package."""
    folder = previous["env"]["PYTHONPATH"].split(os.pathsep)[0]
    assert fleet.run("shell", "-c", WHERE, **previous).stdout.count(folder) == 1
    assert folder not in fleet.run("shell", "-c", WHERE, **NEW).stdout


def test_without_history(tmp_path: Path) -> None:
    """A source distribution skips these tests; a shallow clone fails with the remedy."""
    with pytest.raises(pytest.skip.Exception, match="this is no clone"):
        older.install_previous(tmp_path, tmp_path)
    subprocess.run([program("git"), "init", "-q", tmp_path], check=True)
    with pytest.raises(pytest.fail.Exception, match="git fetch --unshallow"):
        older.install_previous(tmp_path, tmp_path)


@pytest.mark.parametrize(
    "commands", [[SAFE] * 2, [SAFE, STOCK]], ids=["safe_migrate", "both commands"]
)
def test_a_mixed_fleet(
    either: Fleet, previous: dict[str, Any], commands: list[list[str]]
) -> None:
    """Replicas of both versions start on an empty database: each thing is done once."""
    each = [(command, v) for v in (previous, NEW) for command in commands]
    either.use(step="atomic")
    started = either.start_mixed(*each)
    assert exit_codes(started) == [0] * len(each), either
    assert len(either.database.applied_once()) == MIGRATIONS
    assert entries(either.database) == ["data", "seed"]
    assert len(either.notes("data")) == len(either.notes("seed")) == 1
    steps = either.database.steps()
    assert {step["outcome"] for step in steps} == {"done"}
    assert len({step["name"] for step in steps}) == len(steps)
    # A `migrate` that leads first leaves the step to a later run.
    partial = {"partial"} if STOCK in commands else set()
    assert {"ready"} <= set(outcomes(either.database)) <= {"ready"} | partial
    # `migrate` has a run of its own, even if it applies nothing.
    if STOCK not in commands:
        roles = [replica.json["role"] for replica in started]
        assert (roles.count("leader"), len(either.database.runs())) == (1, 1)
    assert_nothing_to_do(either, previous, NEW)


def test_a_leader_is_followed(either: Fleet, pair: Pair) -> None:
    """A follower of the other version is woken by the leader's end, long before its next poll."""
    either.use(scenario="gated", poll="3600")
    leader, follower = start_pair(either, pair)
    either.wait_for_note("pauses")
    for version in pair:
        status = shown(either, **version)
        assert (status["state"], status["led"]) == ("migrating", True)
        assert (status["run"]["id"], status["run"]["message"]) == (1, "shop.0002_gate")
    either.allow()
    assert_ready(leader, follower)
    assert (leader.json["role"], follower.json["role"]) == ("leader", "follower")
    assert follower.json["run"] == leader.json["run"] == 1
    for version in pair:
        assert shown(either, **version)["ready"]
    assert_nothing_to_do(either, *pair)


def test_a_failure_is_shared(either: Fleet, pair: Pair) -> None:
    """A follower of the other version fails with the leader's reason, and tries nothing."""
    either.use(scenario="failing")
    started = start_pair(either, pair)
    either.allow()
    assert exit_codes(started) == [1, 1], either
    assert "product 7 has no price" in started[1].json["error"]
    assert outcomes(either.database) == ["failed"]
    assert len(either.notes("inside")) == 1


def test_a_killed_leader_is_replaced(either: Fleet, pair: Pair) -> None:
    """A follower of the other version takes over from a killed leader, and repeats nothing."""
    either.use(scenario="gated")
    leader, follower = start_pair(either, pair)
    leader.kill()
    either.wait_for_note("inside", 2)
    either.allow()
    assert exit_codes([leader, follower]) == [137, 0], either
    assert follower.json["role"] == "leader"
    assert outcomes(either.database) == ["abandoned", "ready"]
    assert entries(either.database) == ["gate", "data"]
    assert len(either.database.applied_once()) == 3


@pytest.mark.parametrize("atomic", ["1", "0"], ids=["atomic", "non-atomic"])
def test_killed_inside_a_statement(either: Fleet, pair: Pair, atomic: str) -> None:
    """The statement of a killed leader is gone before a successor of the other version works."""
    either.use(scenario="statement", atomic=atomic)
    leader, follower = start_pair(either, pair)
    leader.kill()
    assert exit_codes([leader, follower]) == [137, 0], either
    assert {text for _, text in either.notes("successor")} <= {
        "successor, still running: 0"
    }
    assert entries(either.database) == ["successor"]
    assert outcomes(either.database) == ["abandoned", "ready"]


@pytest.mark.parametrize("atomic", ["1", "0"], ids=["atomic", "non-atomic"])
def test_a_stopped_leader_is_replaced(
    fleet: Fleet, database: Database, pair: Pair, atomic: str
) -> None:
    """The other version ends a leader without a heartbeat, which then follows."""
    fleet.use(scenario="statement", atomic=atomic, safe_init={"STALLED_AFTER": AFTER})
    leader, follower = start_pair(fleet, pair)
    with leader.stopped():
        [(_, text)] = fleet.wait_for_note("successor")
        assert text == "successor, still running: 0"
        first, second = database.runs()
        silence = second["started_at"] - first["heartbeat_at"]
        assert silence.total_seconds() >= AFTER
    assert exit_codes([leader, follower]) == [0, 0], fleet
    assert entries(database) == ["successor"]
    assert outcomes(database) == ["abandoned", "ready"]


def test_an_interrupted_migration_is_reported(either: Fleet, pair: Pair) -> None:
    """The other version sees which migration a killed leader left, and `--rerun` repeats it."""
    either.use(scenario="statement", atomic="0", safe_init={"UNFINISHED": "report"})
    leader = either.start(*SAFE, **pair.leading)
    either.wait_for_note("inside")
    either.wait_until(lambda: "shop.0002" in step_names(either)[-1], "its record")
    leader.kill()
    assert leader.wait() == 137
    refused = either.run(*SAFE, **pair.other)
    assert refused.wait() == 1, refused
    assert "safe_migrate --rerun shop.0002_statement" in refused.json["error"]
    repeated = either.run(*SAFE, "--rerun", "shop.0002_statement", **pair.other)
    assert_ready(repeated)
    assert entries(either.database) == ["successor"]


def step_names(fleet: Fleet) -> list[str]:
    return [step["name"] for step in fleet.database.steps()]


def test_unlock_ends_the_others_leader(either: Fleet, pair: Pair) -> None:
    """`safe_init_unlock` describes and ends a leader of the other version."""
    either.use(scenario="gated")
    leader, follower = start_pair(either, pair)
    unlock = either.run(*UNLOCK, **pair.other)
    assert unlock.wait() == 0, unlock
    assert "run 1 (safe_migrate)" in unlock.stdout
    either.wait_for_note("inside", 2)
    either.allow()
    killed = isinstance(either.database, SqliteDatabase)
    assert exit_codes([leader, follower]) == [143 if killed else 0, 0], either
    assert follower.json["role"] == "leader"
    assert entries(either.database) == ["gate", "data"]


def test_how_far_a_step_is(either: Fleet, pair: Pair) -> None:
    """Each version reads the other leader's `track()`, on SQLite from the lock file."""
    either.use(scenario="tracking")
    leader, follower = start_pair(either, pair)
    either.wait_until(lambda: "secret rows 2/4" in follower.stderr, "a follower's line")
    for version in pair:
        run = shown(either, **version)["run"]
        counted = [run[f"item_{name}"] for name in ("done", "total", "message")]
        assert counted == [2, 4, "secret rows"]
        assert run["progress"] > 0
    either.allow()
    assert_ready(leader, follower)


# The older version


def test_the_older_version_first(
    fleet: Fleet, database: Database, old: dict[str, Any]
) -> None:
    """The newer version reads the older tables as they are, and adds what they lack as leader."""
    assert_ready(fleet.run(*SAFE, **old))
    assert missing_columns(database) == older.LACKS
    assert shown(fleet, **NEW)["ready"]
    run = fleet.run("safe_init_status", "--run", "1", **NEW)
    assert run.wait() == 0, run
    assert "  steps:\n      1 " in run.stdout
    assert missing_columns(database) == older.LACKS, "reading has changed the tables"
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
    """Fleets of both versions start together: all are ready, each migration ran once."""
    both = [(SAFE, version) for version in (old, NEW) for _ in range(3)]
    assert_ready(*fleet.start_mixed(*both))
    assert len(database.applied_once()) == MIGRATIONS
    assert entries(database) == ["data"]
    for version in (old, NEW):
        fleet.run(*SAFE, **version)
    runs = database.runs()
    # Each build has had its run: a follower that was made ready by the other led now.
    assert outcomes(database) == ["ready"] * 2
    again = fleet.start_mixed((SAFE, old), (SAFE, old), (SAFE, NEW))
    assert_ready(*again)
    assert {replica.json["role"] for replica in again} == {"none"}
    assert database.runs() == runs


@pytest.mark.parametrize("first", ["old", "new"])
def test_one_takes_over_from_the_other(
    fleet: Fleet, database: Database, old: dict[str, Any], first: str
) -> None:
    """A leader of one version is followed by the other, and replaced when it dies."""
    fleet.use(scenario="gated")
    pair = Pair(old, NEW) if first == "old" else Pair(NEW, old)
    leader, follower = start_pair(fleet, pair)
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
    assert outcomes(database) == ["abandoned", "ready"]
    assert_ready(fleet.run(*SAFE, **pair.leading))
    assert entries(database) == ["gate", "data"]
    assert exit_codes([leader]) == [137]
