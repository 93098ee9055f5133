"""Helpers of database tests and process tests: waiting, and reading a database."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jsonschema
import psycopg
import pytest
from psycopg.rows import dict_row

from django_safe_init.backends.base.context import Context
from django_safe_init.conf import Settings, get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.deadline import Deadline

T = TypeVar("T")
#: The seconds after which a wait counts as a hang, also on a machine that is ten times slower.
#: On a still slower one, such as an emulator, `TEST_PATIENCE` in the environment multiplies it.
PATIENCE = 120.0 * float(os.environ.get("TEST_PATIENCE", "1"))
#: Seconds that no test waits: for a sleep that has to be ended, and for a limit not to be reached.
ENDLESS = 3600.0
#: The application name of the tests' own sessions, which no test counts.
OBSERVER = "test observer"


def wait_until(
    condition: Callable[[], T],
    timeout: float = PATIENCE,
    message: str | Callable[[], str] = "",
) -> T:
    """Return the first true value of `condition`, or fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            detail = message() if callable(message) else message
            raise AssertionError(f"not within {timeout} s: {detail or condition}")
        time.sleep(0.02)
    return value


def program(name: str) -> str:
    """Return the path of a program that `.ci/run` installs; skip the test without it.

    With `REQUIRE_PROGRAMS` in the environment, as `.ci/run` sets it, the test fails.
    """
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if not found and os.environ.get("REQUIRE_PROGRAMS"):
        pytest.fail(f"{name} is not installed")
    if not found:
        pytest.skip(f"{name} is not installed (apt-get install {name})")
    return found


def free_port() -> int:
    """Return an unused port of the loopback interface."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


SCHEMAS = Path(__file__).parents[1] / "docs/schemas"


@cache
def schema_of(command: str) -> Any:
    """Return the published JSON schema of the command's output."""
    schema = json.loads((SCHEMAS / f"{command}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def validate_json(command: str, document: Any) -> None:
    """Raise unless the document matches the command's published schema."""
    schema_of(command).validate(document)


class Records(ABC):
    """The records of Django and of this package in a database."""

    @abstractmethod
    def rows(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        """Run one statement and return its rows."""

    @abstractmethod
    def has_table(self, name: str) -> bool: ...

    def value(self, statement: str, *parameters: Any) -> Any:
        """Return the first column of the first row."""
        return next(iter(self.rows(statement, *parameters)[0].values()))

    def applied_counts(self) -> Counter[str]:
        """Return the number of records in `django_migrations` for each migration."""
        if not self.has_table("django_migrations"):
            return Counter()
        rows = self.rows("SELECT app || '.' || name AS name FROM django_migrations")
        return Counter(row["name"] for row in rows)

    def applied_once(self, app: str = "shop") -> list[str]:
        """Return the recorded migrations of `app`; fail if one is recorded twice."""
        counts = self.applied_counts()
        assert set(counts.values()) <= {1}, counts
        return sorted(name for name in counts if name.startswith(f"{app}."))

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs, oldest first."""
        return self.rows("SELECT * FROM django_safe_init_run ORDER BY id")

    def newest_run(self) -> dict[str, Any]:
        return self.runs()[-1]

    def steps(self) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM django_safe_init_step ORDER BY id")

    def leader_pid(self) -> int:
        """Return the process id of the newest run's leader."""
        return int(self.newest_run()["leader"].rsplit(":", 1)[1])


class SqliteDatabase(Records):
    """A database file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lock = Path(f"{file}.safe-init.lock")

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Return this database as an entry of Django's `DATABASES`."""
        engine = "django.db.backends.sqlite3"
        return {"ENGINE": engine, "NAME": str(self.file), **changes}

    @contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """Yield a new autocommit connection."""
        raw = sqlite3.connect(self.file, isolation_level=None, timeout=20)
        raw.row_factory = sqlite3.Row
        with closing(raw):
            yield raw

    def rows(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        with self.connect() as raw:
            return [dict(row) for row in raw.execute(statement, parameters)]

    def has_table(self, name: str) -> bool:
        if not self.file.exists():  # to connect would create it
            return False
        statement = "SELECT count(*) FROM sqlite_master WHERE name = ?"
        return bool(self.value(statement, name))


class Database(Records):
    """One PostgreSQL database, read on a separate autocommit session."""

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        self.name = name
        self.parameters = {**parameters, "dbname": name}
        self._session: psycopg.Connection[dict[str, Any]] | None = None

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Return this database as an entry of Django's `DATABASES`."""
        names = {"host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD"}
        known = {
            django: str(self.parameters[libpq])
            for libpq, django in names.items()
            if self.parameters.get(libpq)
        }
        engine = "django.db.backends.postgresql"
        return {"ENGINE": engine, "NAME": self.name, **known, **changes}

    def connect(self, **changes: Any) -> psycopg.Connection[dict[str, Any]]:
        """Return a new autocommit session, which the caller closes."""
        return psycopg.connect(
            **{**self.parameters, "application_name": OBSERVER, **changes},
            autocommit=True,
            row_factory=dict_row,
        )

    def rows(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        """Run one statement and return its rows; the next call reconnects after an error."""
        if self._session is None:
            self._session = self.connect()
        try:
            cursor = self._session.execute(statement, parameters or None)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []
        except psycopg.OperationalError:
            self.close()
            raise

    def has_table(self, name: str) -> bool:
        return bool(self.value("SELECT to_regclass(%s) IS NOT NULL", name))

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    # Who is connected

    def backends(self, where: str = "true") -> list[dict[str, Any]]:
        """Return the client sessions of this database that are not the tests'."""
        return self.rows(
            "SELECT * FROM pg_stat_activity WHERE datname = current_database()"
            f" AND backend_type = 'client backend' AND application_name <> '{OBSERVER}'"
            f" AND ({where})"
        )

    def sessions(self) -> int:
        """Wait until all sessions have ended, and return how many this database has had."""
        wait_until(lambda: not self.backends())
        query = (
            "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
        )
        return int(self.value(query))

    def followers(self) -> list[dict[str, Any]]:
        return self.backends("application_name LIKE 'safe_init waiting%'")

    def holders(self, key: int) -> list[int]:
        """Return the backends that hold the 64-bit advisory lock `key`, shared or not."""
        rows = self.rows(
            "SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = database"
            " WHERE datname = current_database() AND locktype = 'advisory' AND granted"
            " AND objsubid = 1 AND classid::bigint = %s AND objid::bigint = %s",
            (key >> 32) & 0xFFFFFFFF,
            key & 0xFFFFFFFF,
        )
        return [row["pid"] for row in rows]


def make_context(
    alias: str = "default",
    settings: Settings | None = None,
    report: Callable[[str], None] = print,
) -> Context:
    """Return a backend's context for this process's build, without a deadline."""
    return Context(
        alias, current_build(), settings or get_settings(), Deadline(None), report
    )
