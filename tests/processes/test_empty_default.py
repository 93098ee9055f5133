"""A project whose `default` is empty: `SAFE_INIT["DATABASES"]` names the databases."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.processes.harness import Fleet
from tests.support import Database, SqliteDatabase

SLEEPING = "state = 'active' AND query LIKE '%pg_sleep%'"


@pytest.fixture
def only_main(fleet: Fleet) -> Fleet:
    """Return a fleet with the database `main` and an empty `default`."""
    databases = {"default": {}, "main": fleet.database.settings()}
    fleet.use(project={"DATABASES": databases}, safe_init={"DATABASES": ["main"]})
    return fleet


def test_every_command(only_main: Fleet) -> None:
    """Every command is about the database that the setting names, without an option."""
    status = only_main.run("safe_init_status")
    assert status.wait() == 3, status
    assert status.stdout.startswith("main: uninitialized")
    for command in (
        ["safe_migrate"],
        ["safe_migrate", "--check"],
        ["safe_migrate", "--plan"],
        ["safe_init_validate"],
        ["safe_init_unlock"],
        ["safe_init_status", "--wait", "--history", "3"],
        ["safe_init_status", "--watch"],
    ):
        replica = only_main.run(*command)
        assert replica.wait() == 0, replica
    assert "shop.0005_data" in only_main.database.applied_once()
    status = only_main.run("safe_init_status", "--json", "--run", "1")
    assert status.wait() == 0, status
    assert status.json["database"] == "main"


def test_unlock(only_main: Fleet, database: Database) -> None:
    """`safe_init_unlock` ends the leader of the database that the setting names."""
    only_main.use(scenario="statement")
    leader = only_main.start("safe_migrate")
    only_main.wait_until(lambda: database.backends(SLEEPING), "the statement runs")
    unlock = only_main.run("safe_init_unlock", "--noinput")
    assert unlock.wait() == 0, unlock
    assert unlock.stdout.startswith("main: the leader ")
    assert leader.wait() == 0, leader  # it has started over


def test_migrate(only_main: Fleet) -> None:
    """Django's `migrate` needs `--database`; without it the error names the databases."""
    refused = only_main.run("migrate")
    assert refused.wait() == 2, refused
    assert refused.stderr == (
        "CommandError: The database 'default' has no engine: its entry in DATABASES is empty. "
        'Name others in SAFE_INIT["DATABASES"], or one with --database. '
        "DATABASES has: main.\n"
    )
    migrate = only_main.run("migrate", "--database", "main")
    assert migrate.wait() == 0, migrate


@pytest.mark.parametrize(
    "command",
    ["safe_migrate", "safe_init_status", "safe_init_unlock", "safe_init_validate"],
)
def test_without_the_setting(only_main: Fleet, command: str) -> None:
    """Without the setting, every command says that `default` is empty."""
    refused = only_main.run(command, safe_init={})
    assert refused.wait() == 2, refused
    assert "The database 'default' has no engine" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_several(
    fleet: Fleet, make_database: Callable[[], Database], lite: SqliteDatabase
) -> None:
    """With several databases and no `default`, the commands are about each of them."""
    databases = {
        "default": {},
        "main": fleet.database.settings(),
        "files": lite.settings(),
    }
    names = ["main", "files"]
    fleet.use(project={"DATABASES": databases}, safe_init={"DATABASES": names})
    first = fleet.run("safe_migrate", "--database", "main")
    assert first.wait() == 0, first
    status = fleet.run("safe_init_status")
    assert status.wait() == 3, status
    assert [line.split()[0] for line in status.stdout.splitlines()] == [
        "main:",
        "files:",
        "to",
    ]
    status = fleet.run("safe_init_status", "--json")
    assert status.wait() == 3, status
    found = [(each["database"], each["ready"]) for each in status.json["databases"]]
    assert found == [("main", True), ("files", False)]
    unlock = fleet.run("safe_init_unlock")
    assert unlock.wait() == 0, unlock
    assert unlock.stdout.splitlines() == [
        "main: nobody holds the leader lock",
        "files: nobody holds the leader lock",
    ]
    one = fleet.run("safe_init_status", "--run", "1")
    assert one.wait() == 2, one
    assert "name it with --database" in one.stderr
    one = fleet.run("safe_init_status", "--run", "1", "--database", "main")
    assert one.wait() == 0, one
