"""SQLite in memory: one process's own, so there is nothing to lead and nobody to follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connections
from django.db.migrations.recorder import MigrationRecorder

from django_safe_init.backends.sqlite3.introspection import SQLiteIntrospection
from django_safe_init.core.build import Build
from django_safe_init.core.records import (
    Activity,
    LeaderSnapshot,
    RunDetail,
    RunRow,
    Snapshot,
)


class MemoryReader:
    """Reads `django_migrations` on this thread's connection. See `engines.base.StatusReader`."""

    def __init__(self, alias: str, build: Build) -> None:
        self.alias = alias
        self.names = build.migrations

    def finished_run(self) -> int | None:
        """There are no runs."""
        return None

    def read(self) -> Snapshot:
        """What this build knows and the database has not recorded."""
        recorded = MigrationRecorder(connections[self.alias]).applied_migrations()
        missing = self.names - {f"{app}.{name}" for app, name in recorded}
        return Snapshot(tuple(sorted(missing)), None, None, False, False, None)

    def glance(self) -> LeaderSnapshot:
        """Nobody leads."""
        return LeaderSnapshot(None, None)

    def leader_pid(self) -> int | None:
        """Nobody leads."""
        return None

    def history(self, count: int) -> list[RunRow]:
        """There are no runs."""
        return []

    def activity(self) -> Activity:
        """Nobody leads."""
        return Activity(None, 0.0, None, False, ())

    def surroundings(self, run: RunRow, steps: int | None) -> RunDetail:
        """There are no runs."""
        return RunDetail()

    def seconds_left(self, run: RunRow, names: Sequence[str]) -> float | None:
        """There are no runs."""
        return None

    def close(self) -> None:
        """The connection is Django's."""


def open_introspection(alias: str) -> SQLiteIntrospection:
    """Open the introspection on this thread's connection of Django."""

    def rows(
        statement: str, parameters: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        connection = connections[alias]
        connection.ensure_connection()
        cursor = connection.connection.execute(statement, parameters or {})
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    return SQLiteIntrospection(alias, rows)
