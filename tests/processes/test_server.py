"""Database servers that are not running yet, or refuse the login."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from example_project.embedded import EmbeddedServer, free_port
from tests.processes.harness import Fleet, exit_codes
from tests.support import Database, wait_until

SAFE = ["safe_migrate", "--json"]
PASSWORD = "f4ll-0f-secrets"
_numbers = itertools.count(1)


@pytest.mark.smoke
def test_not_there_yet(
    fleet: Fleet, database: Database, chosen_server: EmbeddedServer
) -> None:
    """Replicas that start before the database server print its address and wait."""
    database.close()
    chosen_server.stop()
    try:
        started = fleet.start_together(SAFE, SAFE, ["migrate"])
        wait_until(
            lambda: all(
                str(chosen_server.port) in replica.stderr for replica in started
            ),
            message=repr(fleet),
        )
    finally:
        chosen_server.start()
    assert exit_codes(started) == [0, 0, 0], fleet
    assert len(database.applied_once()) == 5


def test_never_there(fleet: Fleet, database: Database) -> None:
    """After the last attempt a replica exits 4 and prints the address."""
    port = str(free_port())
    gone = fleet.run(
        *SAFE,
        safe_init={"CONNECT_ATTEMPTS": 2, "CONNECT_MAX_WAIT": 0.1},
        database_settings={"PORT": port},
    )
    assert gone.wait() == 4, gone
    assert (gone.json["result"], gone.json["role"]) == ("unreachable", "none")
    assert port in gone.json["error"]


@pytest.fixture
def guarded(database: Database, server: EmbeddedServer) -> Iterator[Database]:
    """`database` for a role with a password."""
    role = f"guarded_{next(_numbers)}"
    rules = server.data / "pg_hba.conf"
    before = rules.read_text()
    database.rows(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    database.rows(f"ALTER DATABASE {database.name} OWNER TO {role}")
    rules.write_text(f"host all {role} 127.0.0.1/32 scram-sha-256\n{before}")
    database.rows("SELECT pg_reload_conf()")
    loaded = f"SELECT count(*) FROM pg_hba_file_rules WHERE '{role}' = ANY (user_name)"
    wait_until(lambda: database.value(loaded))
    yield Database(
        database.name, {**database.parameters, "user": role, "password": PASSWORD}
    )
    rules.write_text(before)
    database.rows("SELECT pg_reload_conf()")


def test_wrong_password(fleet: Fleet, guarded: Database) -> None:
    """A replica with a wrong password exits 4 at once, and prints the server's message only."""
    wrong = fleet.run(
        *SAFE, database=guarded, database_settings={"PASSWORD": "wr0ng-secret"}
    )
    assert wrong.wait() == 4, wrong
    assert wrong.json["result"] == "unreachable"
    assert "password authentication failed" in wrong.json["error"]
    assert "wr0ng-secret" not in wrong.stdout + wrong.stderr
    right = fleet.run(*SAFE, database=guarded)
    assert right.wait() == 0, right


def test_unknown_role(fleet: Fleet, database: Database) -> None:
    """A replica with an unknown role exits 4 at once."""
    nobody = fleet.run(*SAFE, database_settings={"USER": "nobody_here"})
    assert nobody.wait() == 4, nobody
    assert "nobody_here" in nobody.json["error"]
