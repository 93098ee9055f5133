"""Several databases in one command: concurrent runs, failures and signals."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from django_safe_init.backends.postgresql.lock_keys import leader_key
from tests.processes.conftest import LOGGED
from tests.processes.harness import Fleet, Replica
from tests.support import Database

SAFE = ["safe_migrate", "--json"]
SLEEPING = "state = 'active' AND query LIKE '%pg_sleep%'"


@pytest.fixture
def several(
    fleet: Fleet, make_database: Callable[[], Database]
) -> Callable[[int], dict[str, Database]]:
    """Give the fleet the number of databases, by alias."""

    def make(count: int) -> dict[str, Database]:
        others = {f"other{n}": make_database() for n in range(1, count)}
        aliases = ["default", *others]
        fleet.use(
            scenario="several", databases=others, safe_init={"DATABASES": aliases}
        )
        return {"default": fleet.database, **others}

    return make


def by_alias(replica: Replica) -> dict[str, dict[str, Any]]:
    return {each["database"]: each for each in replica.json["databases"]}


def most_at_once(fleet: Fleet) -> int:
    """Return the highest number of databases that were inside the migration at the same moment."""
    inside, most = 0, 0
    for _, text in fleet.notes():
        inside += {"inside": 1, "leaves": -1}.get(text.split()[0], 0)
        most = max(most, inside)
    return most


def content(database: Database) -> dict[str, list[str]]:
    """Return all rows of the project's tables, without times and process ids."""
    tables = database.rows(
        "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'"
        " AND tablename NOT LIKE 'django_safe_init_%'"
    )
    return {
        row["name"]: [
            str(each["row"])
            for each in database.rows(
                f"SELECT to_jsonb(t) - 'applied' - 'at' - 'pid' AS row FROM {row['name']} t"
                " ORDER BY id"
            )
        ]
        for row in tables
    }


@pytest.mark.parametrize("jobs", [3, 8])
def test_side_by_side(fleet: Fleet, several: Any, jobs: int) -> None:
    """Of eight databases `--jobs` are in progress at a time; one fails, seven become ready."""
    databases = several(8)
    fleet.use(fails="other4")
    replica = fleet.start(*SAFE, "--jobs", str(jobs))
    fleet.wait_for_note("inside", jobs)
    assert {len(each.backends()) > 0 for each in databases.values()} == (
        {True} if jobs == 8 else {True, False}
    )
    fleet.allow()
    assert replica.wait() == 1, replica
    assert most_at_once(fleet) == jobs
    ended = by_alias(replica)
    assert replica.json["result"] == "failed"
    assert next(iter(ended)) == "other4"
    assert ended.pop("other4")["error"] == "shop.0002_data: ValueError: no"
    assert [*ended] == [alias for alias in databases if alias != "other4"]
    for alias, each in ended.items():
        assert (each["result"], each["role"]) == ("ready", "leader")
        assert each["applied"][-1] == "shop.0003_rename"
        [run] = databases[alias].runs()
        assert (run["id"], run["outcome"]) == (each["run"], "ready")
        assert run["done"] == run["total"] == len(each["applied"])
        assert len(databases[alias].applied_once()) == 3
    assert databases["other4"].newest_run()["outcome"] == "failed"
    assert len(databases["other4"].applied_once()) == 1


@pytest.mark.smoke
def test_the_same_as_one_after_the_other(fleet: Fleet, several: Any) -> None:
    """Concurrent runs create the same rows, content types and permissions as serial runs."""
    databases = several(8)
    fleet.allow()
    serial = ["default", "other1"]
    chosen = [part for alias in serial for part in ("--database", alias)]
    first = fleet.run(*SAFE, *chosen)
    assert first.wait() == 0, first
    expected = content(databases["default"])
    assert content(databases["other1"]) == expected
    assert len(expected["shop_entry"]) == 3
    assert len(expected["django_content_type"]) == 7
    assert len(expected["auth_permission"]) == 28
    second = fleet.run(*SAFE, "--jobs", "8")
    assert second.wait() == 0, second
    assert {alias: each["role"] for alias, each in by_alias(second).items()} == {
        alias: "none" if alias in serial else "leader" for alias in databases
    }
    for alias, database in databases.items():
        assert content(database) == expected, alias


def test_two_replicas(fleet: Fleet, several: Any) -> None:
    """Two replicas with the same databases: each database has one leader and one run."""
    databases = several(4)
    command = [*SAFE, "--jobs", "4"]
    one, other = fleet.start_together(command, command)
    fleet.wait_for_note("inside", 4)
    fleet.wait_until(
        lambda: all(database.followers() for database in databases.values()),
        "a follower for each",
    )
    fleet.allow()
    assert (one.wait(), other.wait()) == (0, 0), fleet
    ends = by_alias(one), by_alias(other)
    for alias, database in databases.items():
        assert sorted(end[alias]["role"] for end in ends) == ["follower", "leader"]
        assert [run["outcome"] for run in database.runs()] == ["ready"]


def test_lines_name_their_database(fleet: Fleet, several: Any) -> None:
    """Each line of the output names its database and is complete."""
    databases = several(3)
    fleet.allow()
    fleet.use(fails="other2")
    replica = fleet.run("safe_migrate", "--jobs", "3")
    assert replica.wait() == 1, replica
    lines = replica.stdout.splitlines()
    assert {line.split(": ")[0] for line in lines} == set(databases)
    for alias in ("default", "other1"):
        assert f"{alias}:   Applying shop.0003_rename... OK" in lines
    assert "other2:   Applying shop.0002_data..." in lines
    error = "other2: shop.0002_data: ValueError: no"
    assert replica.stderr.startswith("other2: run 1 failed: shop.0002_data: ValueError")
    assert LOGGED.sub("", replica.stderr) == f"CommandError: {error}\n"


def test_one_unreachable(fleet: Fleet, several: Any) -> None:
    """An unreachable database is named; the others are initialized; the worst exit code wins."""
    databases = several(3)
    fleet.allow()
    databases["other1"].parameters["port"] = 1
    fleet.use(
        safe_init={"DATABASES": list(databases), "CONNECT_ATTEMPTS": 2}, fails="other2"
    )
    replica = fleet.run(*SAFE, "--jobs", "2")
    assert replica.wait() == 1, replica
    assert [
        (each["database"], each["result"]) for each in replica.json["databases"]
    ] == [
        ("other2", "failed"),
        ("other1", "unreachable"),
        ("default", "ready"),
    ]
    databases["other1"].parameters.update(databases["default"].parameters)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all(fleet: Fleet, several: Any, number: signal.Signals) -> None:
    """A signal cancels the statements, closes the runs, frees the locks and starts no other run."""
    databases = several(5)
    fleet.use(scenario="statement", each="1")
    replica = fleet.start(*SAFE, "--jobs", "3")
    working = list(databases.values())[:3]
    fleet.wait_until(
        lambda: all(database.backends(SLEEPING) for database in working),
        "three statements run",
    )
    replica.kill(number)
    assert replica.wait() == 128 + number, replica
    ended = by_alias(replica)
    assert replica.json["result"] == "interrupted"
    assert list(ended) == list(databases)
    assert {each["result"] for each in ended.values()} == {"interrupted"}
    assert {each["error"] for each in ended.values()} == {f"ended by {number.name}"}
    for database in working:
        run = database.newest_run()
        assert run["outcome"] == "interrupted"
        assert database.holders(leader_key()) == []
        assert database.backends(SLEEPING) == []
    for alias in list(databases)[3:]:
        assert databases[alias].applied_counts() == {}


def test_a_signal_ends_python_at_its_next_query(fleet: Fleet, several: Any) -> None:
    """After a signal, a migration in Python ends at its next query and is rolled back."""
    databases = several(2)
    replica = fleet.start(*SAFE, "--jobs", "2")
    fleet.wait_for_note("inside", 2)
    replica.kill(signal.SIGTERM)
    fleet.allow()
    assert replica.wait() == 143, replica
    for database in databases.values():
        assert database.newest_run()["outcome"] == "interrupted"
        assert len(database.applied_once()) == 1
    assert fleet.run(*SAFE, "--jobs", "2").wait() == 0, fleet


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_second_signal(fleet: Fleet, several: Any, arguments: list[str]) -> None:
    """A second signal ends the process immediately, without waiting for Python code."""
    databases = several(2)
    replica = fleet.start("safe_migrate", "--jobs", "2", *arguments)
    fleet.wait_for_note("inside", 2)
    replica.kill(signal.SIGTERM)

    def tell_again() -> bool:
        # A second signal within two seconds counts as a repetition: containers send two.
        replica.kill(signal.SIGTERM)
        return replica.ended

    fleet.wait_until(tell_again, "the end of the process")
    assert replica.wait() == 143, replica
    if arguments:
        assert replica.json["result"] == "interrupted"
        assert replica.json["error"] == "ended by SIGTERM"
    else:
        assert replica.stderr == "ended by SIGTERM\n"
    fleet.allow()
    assert fleet.run(*SAFE, "--jobs", "2").wait() == 0, fleet
    for database in databases.values():
        assert [run["outcome"] for run in database.runs()] == ["abandoned", "ready"]
