"""Open each backend for the contracts in `django_safe_init.testing`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.postgresql.backend import PostgresBackend
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.sqlite3.backend import SQLiteBackend
from django_safe_init.backends.sqlite3.lock_file import FileLock
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE
from tests.fake_backend.backend import FakeBackend
from tests.fake_backend.lock import FakeLock
from tests.fake_backend.server import FakeServer
from tests.support import Database, SqliteDatabase


class OnPostgreSQL:
    """Gives each test a database on PostgreSQL."""

    @pytest.fixture(autouse=True)
    def _database(self, django_database: Database) -> None:
        self.database = django_database

    def open_backend(self, context: Context) -> PostgresBackend:
        return PostgresBackend(context)

    def lose_lock(self, lock: AdvisoryLock) -> None:
        pid = lock.session.handshake_pid
        self.database.rows("SELECT pg_terminate_backend(%s, 5000)", pid)

    @contextmanager
    def lock_tables(self) -> Iterator[None]:
        with self.database.connect() as raw:
            raw.execute(f"BEGIN; LOCK TABLE {RUN_TABLE}, {STEP_TABLE} NOWAIT")
            yield


class OnEachPostgreSQL(OnPostgreSQL):
    """Runs each test on both embedded versions of PostgreSQL."""

    @pytest.fixture(params=[18, 16], ids=["pg18", "pg16"])
    def version(self, request: pytest.FixtureRequest) -> int:
        return request.param


class OnSQLite:
    """Gives each test a database file."""

    @pytest.fixture(autouse=True)
    def _database(self, lite: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = lite
        session = "django_safe_init.backends.sqlite3.session"
        monkeypatch.setattr(f"{session}._BUSY_SECONDS", 0.05)

    def open_backend(self, context: Context) -> SQLiteBackend:
        return SQLiteBackend(context)

    def lose_lock(self, lock: FileLock) -> None:
        Path(lock.path).unlink()

    @contextmanager
    def lock_tables(self) -> Iterator[None]:
        with self.database.connect() as raw:
            raw.execute("PRAGMA busy_timeout = 0")
            raw.execute("BEGIN EXCLUSIVE")
            yield


class OnFake:
    """Gives each test a server of the fake."""

    @pytest.fixture(autouse=True)
    def _database(self, fake: FakeServer) -> None:
        self.server = fake

    def open_backend(self, context: Context) -> FakeBackend:
        return FakeBackend(context)

    def lose_lock(self, lock: FakeLock) -> None:
        self.server.leader = None

    @contextmanager
    def lock_tables(self) -> Iterator[None]:
        self.server.tables_are_locked = True
        yield
        self.server.tables_are_locked = False
