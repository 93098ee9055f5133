"""Provide the backend for a SQLite database in memory, which only one process can reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connections
from django.db.migrations.recorder import MigrationRecorder

from django_safe_init.backends.base.backend import BaseBackend
from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.backends.sqlite3.introspection import SQLiteIntrospection
from django_safe_init.core.build import Build
from django_safe_init.core.records import (
    Activity,
    InterruptedStep,
    LeaderSnapshot,
    RunDetail,
    RunRow,
    Snapshot,
)
from django_safe_init.core.step import CompletedStep


class MemoryReader(BaseReader):
    """A reader of `django_migrations` on this thread's connection, without runs."""

    def __init__(self, alias: str, build: Build) -> None:
        self.alias = alias
        self.migrations = build.migrations

    def finished_run(self) -> int | None:
        return None

    def read(self) -> Snapshot:
        recorded = MigrationRecorder(connections[self.alias]).applied_migrations()
        missing = self.migrations - {f"{app}.{name}" for app, name in recorded}
        return Snapshot(tuple(sorted(missing)), None, None, False, False, None)

    def peek(self) -> LeaderSnapshot:
        return LeaderSnapshot(None, None)

    def leader_pid(self) -> int | None:
        return None

    def history(self, count: int) -> list[RunRow]:
        return []

    def activity(self) -> Activity:
        return Activity(None, 0.0, None, False, ())

    def run_detail(self, run: RunRow, steps: int | None) -> RunDetail:
        return RunDetail()

    def seconds_left(self, run: RunRow, names: Sequence[str]) -> float | None:
        return None

    def interrupted(self) -> dict[str, InterruptedStep]:
        return {}

    def completed_steps(self) -> list[CompletedStep]:
        return []

    def close(self) -> None:
        """Do nothing, because the connection belongs to Django."""


class MemoryBackend(BaseBackend):
    """A backend on Django's own connection, because any other opens another database."""

    def reader(self) -> MemoryReader:
        return MemoryReader(self.context.alias, self.context.build)

    def introspection(self) -> SQLiteIntrospection:
        return SQLiteIntrospection(self.context.alias, self._rows)

    def _rows(
        self, statement: str, parameters: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        connection = connections[self.context.alias]
        connection.ensure_connection()
        cursor = connection.connection.execute(statement, parameters or {})
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]
