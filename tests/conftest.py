"""Fixtures: one server of each PostgreSQL version per session, one database per test."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from django.db import connections

from django_safe_init.pools import SlowPool, pools, router
from example_project.embedded import EmbeddedServer
from tests.mariadb import MariaDatabase, MariaDB
from tests.support import PATIENCE, Database, wait_until

EMPTY = "template0"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let a test take longer than its longest wait, unless the command line says otherwise."""
    if config.getoption("timeout", None) is None:
        config.option.timeout = 2.5 * PATIENCE


def pytest_collection_finish() -> None:
    """Keep the collector away from the tests themselves: they live as long as the process."""
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers() -> int:
    """Return two workers per core: most tests wait for the processes they start."""
    return 2 * (os.cpu_count() or 1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Smoke tests run on both embedded versions of PostgreSQL, the others on the newest."""
    if "version" in metafunc.fixturenames and list(
        metafunc.definition.iter_markers("smoke")
    ):
        metafunc.parametrize("version", [18, 16], ids=["pg18", "pg16"])


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove this package's variables of the caller's shell from the environment."""
    for name in list(os.environ):
        if name.startswith("SAFE_INIT_") or name == "DB_INIT_MODE":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(18) as running:
        yield running


@pytest.fixture(scope="session")
def server16() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(16) as running:
        yield running


@pytest.fixture
def version() -> int:
    """Return the PostgreSQL version of this test; smoke tests run on both."""
    return 18


@pytest.fixture
def chosen_server(version: int, request: pytest.FixtureRequest) -> EmbeddedServer:
    return request.getfixturevalue("server" if version == 18 else "server16")


_numbers = count(1)


def _connected(admin: Database, database: Database) -> list[str]:
    rows = admin.rows(
        "SELECT pid, application_name, state, query FROM pg_stat_activity"
        " WHERE datname = %s AND backend_type = 'client backend'",
        database.name,
    )
    return [str(row) for row in rows]


def _assert_no_sessions(admin: Database, database: Database) -> None:
    database.close()
    wait_until(
        lambda: not _connected(admin, database),
        message=lambda: f"still connected: {_connected(admin, database)}",
    )


@pytest.fixture
def make_database(chosen_server: EmbeddedServer) -> Iterator[Callable[..., Database]]:
    """Return a function that creates databases.

    After the test the fixture asserts that no session is left, and drops them.
    """
    admin = Database("postgres", chosen_server.params())
    made: list[Database] = []

    def make(template: str = EMPTY) -> Database:
        name = f"test_{os.getpid()}_{next(_numbers)}"
        chosen_server.create_database(name, template)
        made.append(Database(name, chosen_server.params()))
        return made[-1]

    try:
        yield make
        for database in made:
            _assert_no_sessions(admin, database)
    finally:
        for database in made:
            database.close()
            admin.rows(f'DROP DATABASE IF EXISTS "{database.name}" WITH (FORCE)')
        admin.close()


@pytest.fixture
def database(make_database: Callable[..., Database]) -> Database:
    """A fresh, empty database."""
    return make_database()


@pytest.fixture(scope="session")
def mariadb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    server = MariaDB(tmp_path_factory.mktemp("m"))
    try:
        server.install()
        yield server
    finally:
        server.stop()


@pytest.fixture
def mariadb(mariadb_server: MariaDB) -> Iterator[MariaDatabase]:
    """Yield a new database on MariaDB; no session of it may be left at the end of the test."""
    database = MariaDatabase(mariadb_server)
    yield database
    wait_until(lambda: not database.sessions(), 20, "a session is left on MariaDB")
    database.drop()


@pytest.fixture
def django_database(
    database: Database, django_db_blocker: Any, settings: Any
) -> Iterator[Database]:
    """Yield `database` as Django's `default` in this process, with this package enabled."""
    before = dict(connections.settings["default"])
    settings.SAFE_INIT = {"IN_TESTS": True}
    with django_db_blocker.unblock():
        connections["default"].close()
        connections.settings["default"].update(database.settings())
        try:
            yield database
        finally:
            connections["default"].close()
            connections.settings["default"].update(before)


@pytest.fixture
def add_pools(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Yield a function that adds slow pools to `default`, by the keywords of `pools()`."""
    added: list[str] = []

    def add(**slow: SlowPool) -> None:
        entries = pools(connections.settings["default"], **slow)
        for alias, entry in connections.configure_settings(entries).items():
            if alias != "default":
                monkeypatch.setitem(connections.settings, alias, entry)
                added.append(alias)
        # A connection that was opened before has no execute wrapper.
        connections["default"].close()

    settings.DATABASE_ROUTERS = [router.ROUTER]
    monkeypatch.setattr(router, "_logged_pools", set())
    yield add
    for alias in added:
        wrapper: Any = connections[alias]
        wrapper.close()
        if wrapper.vendor == "postgresql":
            wrapper.close_pool()
        del connections[alias]


@pytest.fixture
def black_hole() -> Iterator[int]:
    """Yield the port of a listener that accepts connections and never answers."""
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    accepted.append(listener.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    for each in accepted:
        each.close()
