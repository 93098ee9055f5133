"""Projects on an engine without a leader lock: MariaDB. Its status is read, nothing leads."""

from __future__ import annotations

import json

import pytest

from tests.mariadb import MariaDatabase
from tests.processes.harness import Fleet, Replica
from tests.support import SqliteDatabase

REFUSAL = "No leader lock for database 'default': its engine django.db.backends.mysql"


def error_of(replica: Replica) -> str:
    """Return the only line of the error, also of the JSON object."""
    assert "Traceback" not in replica.stderr, replica
    if "--json" in replica.command:
        return str(json.loads(replica.stdout)["error"])
    assert len(replica.stderr.splitlines()) == 1, replica
    return replica.stderr


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["safe_migrate"], marks=pytest.mark.smoke),
        ["safe_migrate", "--json"],
        ["safe_init_unlock", "--noinput"],
    ],
    ids=" ".join,
)
def test_leading_is_refused(
    mariadb_fleet: Fleet, mariadb: MariaDatabase, command: list[str]
) -> None:
    """A command that would need the lock exits 2 with one sentence, and changes nothing."""
    replica = mariadb_fleet.run(*command)
    assert replica.wait() == 2, replica
    assert REFUSAL in error_of(replica)
    assert not mariadb.has_table("django_migrations")


def test_validation_is_refused(mariadb_fleet: Fleet) -> None:
    """`safe_init_validate` exits 2, because the catalog of the engine is not known."""
    replica = mariadb_fleet.run("safe_init_validate", "--json")
    assert replica.wait() == 2, replica
    assert "No comparison for database 'default'" in error_of(replica)


def test_a_start(mariadb_fleet: Fleet, mariadb: MariaDatabase) -> None:
    """`migrate` is Django's, with W001; waiting processes and the status read the result."""
    before = mariadb_fleet.run("safe_init_status", "--json")
    assert before.wait() == 3, before
    assert (before.json["state"], before.json["led"]) == ("uninitialized", False)
    assert "shop.0005_data" in before.json["pending"]
    assert mariadb_fleet.run("safe_migrate", "--check").wait() == 1
    waiting = [
        mariadb_fleet.start("safe_migrate", "--mode=external", "--json"),
        mariadb_fleet.start("safe_init_status", "--wait", "--json"),
    ]
    for each in waiting:
        mariadb_fleet.wait_until(
            lambda each=each: "waiting for another process" in each.stderr, "a wait"
        )
    migrate = mariadb_fleet.run("migrate")
    assert migrate.wait() == 0, migrate
    assert "(safe_init.W001)" in migrate.stderr
    assert len(mariadb.applied_once()) == 5
    assert not mariadb.has_table("django_safe_init_run")
    for each in waiting:
        assert each.wait() == 0, each
    assert waiting[0].json["result"] == "ready"
    assert waiting[1].json["state"] == "ready"
    assert mariadb_fleet.run("safe_migrate", "--check").wait() == 0


def test_the_risk_is_accepted(mariadb_fleet: Fleet, mariadb: MariaDatabase) -> None:
    """With LOCK "none" `safe_migrate` is Django's `migrate`, and external mode still waits."""
    mariadb_fleet.use(safe_init={"LOCK": "none"})
    waiting = mariadb_fleet.start("safe_migrate", "--mode=external")
    mariadb_fleet.wait_until(
        lambda: "waiting for another process" in waiting.stderr, "a wait"
    )
    assert not mariadb.has_table("django_migrations")
    leading = mariadb_fleet.run("safe_migrate")
    assert (leading.wait(), waiting.wait()) == (0, 0), mariadb_fleet
    assert len(mariadb.applied_once()) == 5


def test_a_wait_ends(mariadb_fleet: Fleet) -> None:
    """A process that waits in vain exits 3, and one without a server exits 4."""
    replica = mariadb_fleet.start("safe_migrate", "--mode=external", "--timeout=0.1")
    lost = mariadb_fleet.start(
        "safe_migrate",
        "--mode=external",
        database_settings={"PORT": "1"},
        safe_init={"CONNECT_ATTEMPTS": 2},
    )
    hurried = mariadb_fleet.start(
        "safe_migrate",
        "--mode=external",
        "--timeout=0.1",
        database_settings={"PORT": "1"},
    )
    assert (replica.wait(), lost.wait()) == (3, 4), mariadb_fleet
    assert hurried.wait() == 3, hurried
    assert "default': it has not answered" in hurried.stderr
    assert "Gave up waiting for database 'default': 1" in replica.stderr
    assert "The database 'default' cannot be read: (2003" in lost.stderr


def test_checks_open_nothing(mariadb_fleet: Fleet) -> None:
    """`manage.py check` warns with W001 although the server is down."""
    replica = mariadb_fleet.run("check", database_settings={"PORT": "1"})
    assert replica.wait() == 0, replica
    assert "(safe_init.W001)" in replica.stderr


@pytest.mark.parametrize("options", [[], ["--json"]], ids=str)
def test_a_server_that_is_down(mariadb_fleet: Fleet, options: list[str]) -> None:
    """`safe_init_status` exits 4 with one line."""
    replica = mariadb_fleet.run(
        "safe_init_status", *options, database_settings={"PORT": "1"}
    )
    assert replica.wait() == 4, replica
    assert "The database 'default' cannot be read" in error_of(replica)


def test_beside_another_engine(
    lite_fleet: Fleet, lite: SqliteDatabase, mariadb: MariaDatabase
) -> None:
    """Of several databases, one without a lock is refused, and the others are initialized."""
    lite_fleet.use(
        databases={"other": mariadb}, safe_init={"DATABASES": ["default", "other"]}
    )
    replica = lite_fleet.run("safe_migrate", "--json")
    assert replica.wait() == 2, replica
    default, other = sorted(
        replica.json["databases"], key=lambda each: each["database"]
    )
    assert (default["result"], other["result"]) == ("ready", "unsafe")
    assert len(lite.applied_once()) == 5
