"""Fixtures of the process tests."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.mariadb import MariaDatabase
from tests.processes.harness import Fleet
from tests.streaming import StreamingPair
from tests.support import Database, SqliteDatabase

_numbers = count(1)
HERE = Path(__file__).parent
#: Does not match the body of a request whose worker ended: Django's ASGI handler leaves it open.
LEAK = re.compile(
    r"ResourceWarning: (?!Unclosed file <tempfile\.Spooled|Enable tracemalloc)"
)
#: The log's record of a failed run, which the process that failed writes. The commands of a hint
#: have a line each.
LOGGED = re.compile(r"\w+: run \d+ failed: .*\n(?: {4}.*\n)*(?:\| .*\n)+")
#: The log of gunicorn, whose worker was told to exit while it sent a response.
EXIT = re.compile(r"Traceback \(most recent call last\):\n(?: .*\n)+SystemExit: 0\n")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.process)


@pytest.fixture
def fleet(database: Database, tmp_path: Path) -> Iterator[Fleet]:
    """Processes against `database`, which the fixture kills at the end of the test.

    No process may leak a connection or print a traceback.
    """
    yield from _ended(Fleet(database, tmp_path))


@pytest.fixture
def lite(tmp_path: Path) -> SqliteDatabase:
    """A database file that does not exist yet."""
    return SqliteDatabase(tmp_path / "db.sqlite3")


@pytest.fixture
def lite_fleet(lite: SqliteDatabase, tmp_path: Path) -> Iterator[Fleet]:
    """Processes against `lite`, like `fleet`."""
    yield from _ended(Fleet(lite, tmp_path))


@pytest.fixture
def mariadb_fleet(mariadb: MariaDatabase, tmp_path: Path) -> Iterator[Fleet]:
    """Processes against `mariadb`, like `fleet`."""
    yield from _ended(Fleet(mariadb, tmp_path))


def _ended(fleet: Fleet) -> Iterator[Fleet]:
    try:
        yield fleet
    finally:
        fleet.end()
    for replica in fleet.replicas:
        assert not LEAK.search(replica.stderr), replica
        unlogged = EXIT.sub("", LOGGED.sub("", replica.stderr))
        assert fleet.tracebacks or "Traceback" not in unlogged, replica


@pytest.fixture(scope="module")
def servers() -> Iterator[StreamingPair]:
    """Yield a primary and a streaming standby for the tests of one module."""
    made = StreamingPair()
    yield made
    made.close()


@pytest.fixture
def pair(servers: StreamingPair) -> Iterator[StreamingPair]:
    """Yield a primary and a streaming standby, which the test may switch."""
    yield servers
    servers.repair()


@pytest.fixture
def switched_database(pair: StreamingPair) -> Iterator[Database]:
    """Yield a new database of the pair, reached through the switch."""
    name = f"switched_{os.getpid()}_{next(_numbers)}"
    pair.primary.create_database(name)
    pair.wait_for_standby()
    made = Database(name, pair.params())
    yield made
    made.close()
    pair.switch.drop()
