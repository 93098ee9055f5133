"""Fixtures: an app with migrations that the test writes, sessions, threads, SQLite files."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from django.core.checks.registry import registry
from django.core.management import BaseCommand
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from django_safe_init.backends.postgresql.connect import connect, create_direct_wrapper
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.schema import ensure_tables
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.backends.sqlite3.schema import ensure_tables as ensure_lite_tables
from django_safe_init.backends.sqlite3.session import SQLiteSession
from django_safe_init.conf import get_settings
from django_safe_init.core.build import Build, current_build
from django_safe_init.core.deadline import Deadline
from example_project.embedded import EmbeddedServer
from tests.support import (
    PATIENCE,
    Database,
    SqliteDatabase,
    validate_json,
    wait_until,
)

_ID = "('id', models.BigAutoField(primary_key=True))"
INITIAL = f"migrations.CreateModel('Product', [{_ID}, ('name', models.TextField(default=''))])"
#: With a foreign key, whose constraint is deferred SQL.
SALE = (
    f"migrations.CreateModel('Sale', [{_ID},"
    " ('product', models.ForeignKey('shop.Product', models.CASCADE))])"
)
INDEX = "AddIndexConcurrently('product', models.Index(fields=['name'], name='product_name'))"

_TEMPLATE = """\
from django.contrib.postgres.operations import (
    AddIndexConcurrently, RemoveIndexConcurrently
)
from django.db import migrations, models
from tests.database.conftest import callback


class Migration(migrations.Migration):
    initial = {initial}
    atomic = {atomic}
    dependencies = {dependencies}
    operations = [{operations}]
"""
_HERE = Path(__file__).parent
_packages = count(1)
_callbacks: dict[str, Callable[..., object]] = {}


def callback(name: str) -> Callable[..., None]:
    """Return a function for `RunPython` that calls the test's callback of this name."""

    def run(apps: Any, schema_editor: Any) -> None:
        _callbacks[name](schema_editor.connection)

    run.__name__ = name
    return run


class Shop:
    """The app `shop`, whose migrations are files that the test writes."""

    def __init__(self, folder: Path) -> None:
        self.package = f"shop_migrations_{next(_packages)}"
        self.folder = folder / self.package
        self.folder.mkdir()
        (self.folder / "__init__.py").write_text("")
        self.callbacks = _callbacks
        self.names: list[str] = []

    def write(self, name: str, *operations: str, atomic: bool = True) -> str:
        """Write a migration that depends on the previous one, and return its full name."""
        before = [("shop", self.names[-1])] if self.names else []
        self.names.append(name)
        text = _TEMPLATE.format(
            initial=not before,
            atomic=atomic,
            dependencies=before,
            operations=", ".join(operations),
        )
        (self.folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return f"shop.{name}"

    def run(
        self,
        name: str,
        forwards: Callable[..., object],
        backwards: Callable[..., object] = lambda connection: None,
        *,
        atomic: bool = True,
    ) -> str:
        """Write a migration that calls these functions with the connection."""
        self.callbacks[name], self.callbacks[f"{name} back"] = forwards, backwards
        return self.write(
            name,
            f"migrations.RunPython(callback({name!r}), callback({name + ' back'!r}))",
            atomic=atomic,
        )

    def remove(self, name: str) -> None:
        """Remove the newest migration, as in an older build."""
        self.names.remove(name)
        (self.folder / f"{name}.py").unlink()
        importlib.invalidate_caches()
        # Django's loader would find the removed module in `sys.modules`.
        sys.modules.pop(f"{self.package}.{name}", None)

    def build(self) -> Build:
        return current_build()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.database)


@pytest.fixture
def shop(tmp_path, settings, monkeypatch) -> Iterator[Shop]:
    """Yield the app `shop` without migrations, as the only app that has any."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = Shop(tmp_path)
    settings.INSTALLED_APPS = ["django_safe_init", "tests.database.shop"]
    settings.MIGRATION_MODULES = {"shop": made.package}
    # Checks stay registered when their app is no longer installed.
    own = {
        check
        for check in registry.registered_checks
        if not check.__module__.startswith("django.contrib.")
    }
    monkeypatch.setattr(registry, "registered_checks", own)
    yield made
    _callbacks.clear()
    for name in [name for name in sys.modules if name.startswith(made.package)]:
        del sys.modules[name]


@pytest.fixture
def small_shop(shop) -> Shop:
    """Return `shop` with a table and a second table that refers to it."""
    shop.write("0001_initial", INITIAL)
    shop.write("0002_sale", SALE)
    return shop


@pytest.fixture(scope="session")
def initialized_copies(server: EmbeddedServer) -> Iterator[dict[str, str]]:
    """Yield the databases that `initialize_as` has kept, by the name of the project."""
    made: dict[str, str] = {}
    yield made
    for name in made.values():
        server.drop_database(name)


@pytest.fixture
def initialize_as(
    django_database: Database,
    server: EmbeddedServer,
    initialized_copies: dict[str, str],
) -> Callable[..., Database]:
    """Return a function that initializes `django_database` for a project.

    The first test of a project runs its migrations, and the next ones get a copy.
    """

    def make(project: str, run: Callable[[], object]) -> Database:
        copy = f"copy_{os.getpid()}_{project}"
        if project in initialized_copies:
            connections["default"].close()
            server.drop_database(django_database.name)
            server.create_database(django_database.name, copy)
        else:
            run()
            connections["default"].close()
            wait_until(lambda: not django_database.backends())
            django_database.close()
            server.create_database(copy, django_database.name)
            initialized_copies[project] = copy
        return django_database

    return make


@pytest.fixture
def sessions() -> Iterator[ExitStack]:
    """Yield a stack that closes its sessions after the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def open_session(django_database, sessions) -> Callable[..., Session]:
    """Return a function that opens sessions of this package."""

    def open_one(name: str = "safe_init test", **direct: Any) -> Session:
        wrapper = create_direct_wrapper("default", direct)
        return sessions.enter_context(
            connect(wrapper, get_settings(), Deadline(5), name)
        )

    return open_one


@pytest.fixture
def session(open_session) -> Session:
    return open_session()


@pytest.fixture
def of_django(monkeypatch) -> list[str]:
    """Return the list of the beginnings of the statements that Django and the project send."""
    noted: list[str] = []
    execute = CursorWrapper._execute

    def note(self, sql, params, *context):
        if "django_safe_init" not in str(sql):
            noted.append(" ".join(str(sql).split("%")[0].split()))
        return execute(self, sql, params, *context)

    monkeypatch.setattr(CursorWrapper, "_execute", note)
    return noted


@pytest.fixture
def no_op_lock(monkeypatch) -> None:
    """Let every session get every advisory lock, as on CockroachDB."""
    real = Session.rows

    def rows(self: Session, statement: str, *arguments: Any) -> list[Any]:
        found = real(self, statement, *arguments)
        return [(True,)] if "pg_try_advisory_lock(" in statement else found

    monkeypatch.setattr(Session, "rows", rows)


@pytest.fixture
def recorder(session) -> PostgresRecorder:
    """Return a recorder of a build "x" on `session`, with its tables."""
    ensure_tables(session)
    return PostgresRecorder(session, Build(frozenset(), "x"), None)


@pytest.fixture
def leader(open_session, small_shop) -> PostgresRecorder:
    """Return the recorder of a leader of this build that has an open run and the lock."""
    session = open_session("safe_init leader")
    session.lock = AdvisoryLock(session)
    assert session.lock.try_acquire()
    ensure_tables(session)
    recorder = PostgresRecorder(session, current_build(), None)
    recorder.open_run("test")
    return recorder


@pytest.fixture
def connect_raw(django_database, sessions) -> Callable[..., Any]:
    """Return a function that opens sessions with no relation to this package."""

    def open_one(**changes: Any) -> Any:
        raw = django_database.connect(**changes)
        # Not `with`: that would commit.
        sessions.callback(raw.close)
        return raw

    return open_one


@pytest.fixture
def raw_session(connect_raw):
    return connect_raw()


@pytest.fixture
def new_role(chosen_server) -> Iterator[Callable[..., str]]:
    """Yield a function that creates roles with LOGIN, which are dropped after the test."""
    made: list[str] = []
    admin = Database("postgres", chosen_server.params())

    def new(name: str, options: str = "LOGIN") -> str:
        admin.rows(f'CREATE ROLE "{name}" {options}')
        made.append(name)
        return name

    yield new
    for name in made:
        for row in admin.rows(
            "SELECT datname FROM pg_database WHERE datname LIKE 'test_%'"
        ):
            database = Database(row["datname"], chosen_server.params())
            database.rows(f'DROP OWNED BY "{name}"')
            database.close()
        admin.rows(f'DROP ROLE "{name}"')
    admin.close()


@pytest.fixture
def log_in_as(django_database) -> Callable[..., None]:
    """Yield a function that changes the settings of `default`, such as the role."""

    def change(**settings: Any) -> None:
        connections["default"].close()
        connections.settings["default"].update(settings)
        del connections["default"]

    yield change
    connections["default"].close()
    del connections["default"]
    connections.settings["default"].update(OPTIONS={})


class Background(threading.Thread):
    """A thread that runs a function on its own Django connections."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.function = function
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self.function()
        except BaseException as exc:  # noqa: BLE001  (raised again by `result`)
            self.error = exc
        finally:
            connections.close_all()

    def result(self, timeout: float = 20) -> Any:
        """Return the function's result, or raise its error."""
        self.join(timeout)
        assert not self.is_alive(), "the thread did not end"
        if self.error is not None:
            raise self.error
        return self.value


@pytest.fixture
def in_background() -> Iterator[Callable[[Callable[[], Any]], Background]]:
    """Yield a function that starts threads, which must end with the test."""
    started: list[Background] = []

    def start(function: Callable[[], Any]) -> Background:
        started.append(Background(function))
        started[-1].start()
        return started[-1]

    yield start
    for thread in started:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def spare_server() -> Iterator[EmbeddedServer]:
    """Yield a small server that a test may restart, and leaves as it was."""
    with EmbeddedServer(18, settings={"max_connections": "10"}) as running:
        yield running


class CommandResult:
    """The exit code and output of a command."""

    def __init__(self, command: str, code: int, stdout: str, stderr: str) -> None:
        self.command = command
        self.code, self.stdout, self.stderr = code, stdout, stderr

    @property
    def json(self) -> Any:
        """Return the object on standard output, validated with the published schema."""
        [line] = self.stdout.splitlines()
        document = json.loads(line)
        validate_json(self.command, document)
        return document


@pytest.fixture
def command_line(capfd, monkeypatch) -> Callable[..., CommandResult]:
    """Return a function that runs a command as `manage.py` does."""

    def run(command: type[BaseCommand], name: str, *arguments: str) -> CommandResult:
        capfd.readouterr()
        code: Any = 0
        with open(1, "w", closefd=False) as stdout, monkeypatch.context() as patched:
            # pytest's `sys.stdout` does not write to descriptor 1.
            patched.setattr(sys, "stdout", stdout)
            try:
                command().run_from_argv(["manage.py", name, *arguments])
            except SystemExit as exc:
                code = exc.code
        return CommandResult(name, code, *capfd.readouterr())

    return run


# SQLite


@pytest.fixture
def lite(tmp_path, settings, django_db_blocker) -> Iterator[SqliteDatabase]:
    """Yield an SQLite file that does not exist yet as `default`, with this package enabled."""
    database = SqliteDatabase(tmp_path / "db.sqlite3")
    settings.SAFE_INIT = {"IN_TESTS": True}
    with django_db_blocker.unblock():
        yield from _as_default(database.settings(), database)


def _as_default(values: dict[str, Any], given: Any) -> Iterator[Any]:
    """Yield `given` while `default` has these settings."""
    before = dict(connections.settings["default"])
    connections["default"].close()
    del connections["default"]
    connections.settings["default"].update(OPTIONS={}, **values)
    try:
        yield given
    finally:
        connections.settings["default"].update(values)  # to close asks for NAME
        # Django's own close() leaves a database in memory open.
        BaseDatabaseWrapper.close(connections["default"])
        del connections["default"]
        connections.settings["default"].clear()
        connections.settings["default"].update(before)


@pytest.fixture
def memory(settings, django_db_blocker) -> Iterator[None]:
    """Make a database in memory the `default`."""
    settings.SAFE_INIT = {"IN_TESTS": True}
    values = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    with django_db_blocker.unblock():
        yield from _as_default(values, None)


@pytest.fixture
def memory_connection(memory) -> Iterator[Any]:
    """Yield the raw connection of the database in memory, which Django itself never closes."""
    connection = connections["default"]
    connection.ensure_connection()
    with closing(connection.connection) as raw:
        yield raw


@pytest.fixture
def lite_session(lite) -> Iterator[SQLiteSession]:
    """Yield a session of this package to `lite`, with the status tables."""
    with closing(SQLiteSession("default")) as made:
        with made.writing():
            ensure_lite_tables(made)
        yield made
