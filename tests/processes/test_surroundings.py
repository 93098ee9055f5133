"""Databases on which no replica can lead: one clear sentence, exit 2, no traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tests.processes.harness import Fleet
from tests.support import Database

SAFE = ["safe_migrate", "--json"]
_numbers = count(1)


@pytest.fixture
def guest(database: Database) -> Iterator[Callable[[str], Database]]:
    """`database` for a new role with only the privileges of the given GRANT."""
    made: list[Database] = []

    def make(grant: str = "") -> Database:
        role = f"guest_{next(_numbers)}"
        database.rows(f"CREATE ROLE {role} LOGIN")
        if grant:
            database.rows(f"GRANT {grant} TO {role}")
        made.append(Database(database.name, {**database.parameters, "user": role}))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize(
    "command", [SAFE, ["migrate"]], ids=["safe_migrate", "migrate"]
)
def test_missing_privilege(
    fleet: Fleet,
    database: Database,
    guest: Callable[[str], Database],
    command: list[str],
) -> None:
    """Without CREATE on the schema a replica exits 2, and prints the role and the GRANT."""
    role = guest("")
    refused = fleet.run(*command, database=role)
    assert refused.wait() == 2, refused
    name = role.parameters["user"]
    assert f'GRANT CREATE ON SCHEMA public TO "{name}";' in refused.stderr, refused
    assert database.applied_counts() == {}


def test_unreadable_tables(
    fleet: Fleet, database: Database, guest: Callable[[str], Database]
) -> None:
    """A role that cannot read the status tables is ready if its migrations are recorded."""
    assert fleet.run(*SAFE).wait() == 0, fleet
    role = guest("SELECT ON django_migrations")
    reader = fleet.run(*SAFE, "--mode", "external", database=role)
    assert reader.wait() == 0, reader
    assert (reader.json["result"], reader.json["role"]) == ("ready", "none")


def other_engine(fleet: Fleet) -> dict[str, object]:
    file = str(fleet.directory / "db.sqlite3")
    return {"database_settings": {"ENGINE": "tests.other_engine", "NAME": file}}


def test_unsupported_engine(fleet: Fleet) -> None:
    """A database engine without a supported lock is refused, unless `LOCK` accepts it."""
    refused = fleet.run(*SAFE, **other_engine(fleet))
    assert refused.wait() == 2, refused
    assert refused.json["result"] == "unsafe"
    assert "LOCK" in refused.json["error"]
    accepted = fleet.run(
        *SAFE, **other_engine(fleet), safe_init={"LOCK": "none"}, scenario="portable"
    )
    assert accepted.wait() == 0, accepted
