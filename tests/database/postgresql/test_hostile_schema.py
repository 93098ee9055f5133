"""Objects that another role created under the names of PostgreSQL's own are never used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.db import connections

from django_safe_init import get_status, initialize
from django_safe_init.management.commands.safe_init_status import Command as Status
from django_safe_init.management.commands.safe_init_unlock import Command as Unlock
from django_safe_init.management.commands.safe_init_validate import Command as Validate
from example_project.embedded import EmbeddedServer
from tests.database.postgresql import planted
from tests.database.postgresql.planted import called
from tests.support import Database

pytestmark = pytest.mark.thorough

PATHS = ['"$user", public', "public, pg_catalog"]


@pytest.fixture(scope="module")
def hostile_server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(18, settings={"log_min_messages": "log"}) as running:
        yield running


@pytest.fixture
def hostile(hostile_server, django_database, log_in_as) -> Iterator[Database]:
    """Yield a database full of planted objects as `default`."""
    hostile_server.drop_database("hostile")
    hostile_server.create_database("hostile")
    database = Database("hostile", hostile_server.params())
    database.rows(planted.TRY)
    functions, operators = planted.plant(database)
    assert functions > 100
    assert operators > 100
    log_in_as(HOST=hostile_server.host, PORT=hostile_server.port, NAME="hostile")
    yield database
    connections["default"].close()
    database.close()
    hostile_server.drop_database("hostile")


def test_planted_objects_are_found(hostile, hostile_server) -> None:
    """A planted function and a planted operator are called where nothing is qualified."""
    raw = hostile.connect(options="-c search_path=public,pg_catalog")
    with raw:
        raw.execute("SELECT pg_backend_pid() /* unqualified */")
        raw.execute("SELECT 1 = 1 /* unqualified */")
    found = [each for each in called(hostile_server, []) if "/* unqualified" in each]
    assert len(found) == 2


@pytest.mark.parametrize("path", PATHS)
def test_a_run(
    hostile, hostile_server, shop, of_django, command_line, settings, path
) -> None:
    """No statement of a run or a command calls a planted function or operator."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "DDL_LOCK_TIMEOUT": 5}
    hostile.rows(f"ALTER DATABASE hostile SET search_path = {path}")
    hostile_server.log.write_text("")
    shop.write("0001_initial", "migrations.RunSQL('CREATE TABLE a (i int)')")
    shop.run("0002_data", lambda connection: None, atomic=False)
    assert initialize().role == "leader"
    assert initialize().role == "none"
    assert get_status().ready
    for command, name, arguments in (
        (Status, "safe_init_status", ["--history", "3"]),
        (Validate, "safe_init_validate", []),
        (Unlock, "safe_init_unlock", ["--noinput"]),
    ):
        assert command_line(command, name, *arguments).code == 0
    call_command("migrate", verbosity=0)
    assert called(hostile_server, of_django) == []
