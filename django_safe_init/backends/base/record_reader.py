"""Read `django_migrations` through a connection of Django, where no status tables exist."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.recorder import MigrationRecorder

from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.core.build import Build
from django_safe_init.core.records import (
    Activity,
    InterruptedStep,
    LeaderSnapshot,
    PreviousFindings,
    RunDetail,
    RunRow,
    Snapshot,
    same_apps,
)
from django_safe_init.core.step import CompletedStep


class RecordReader(BaseReader):
    """A reader of only the recorded migrations, for an engine without a leader.

    No run and no step is ever recorded there, so a build is ready if its migrations are.
    """

    def __init__(self, alias: str, build: Build) -> None:
        self.alias = alias
        self.build = build

    @abstractmethod
    def _connection(self) -> BaseDatabaseWrapper:
        """Return the connection to read with."""

    def finished_run(self, release: str | None = None) -> int | None:
        return None

    def read(self) -> Snapshot:
        recorded = _recorded(self._connection())
        missing = self.build.pending(recorded)
        unknown = same_apps(recorded - self.build.known, missing)
        return Snapshot(missing, None, None, False, False, None, unknown)

    def peek(self) -> LeaderSnapshot:
        return LeaderSnapshot(None, None)

    def leader_pid(self) -> int | None:
        return None

    def history(self, count: int) -> list[RunRow]:
        return []

    def find_run(self, number: int) -> RunRow | None:
        return None

    def traceback(self, run: RunRow) -> str | None:
        return None

    def activity(self) -> Activity:
        return Activity(None, 0.0, None, False, ())

    def run_detail(self, run: RunRow, steps: int | None) -> RunDetail:
        return RunDetail()

    def seconds_left(self, run: RunRow, names: Sequence[str]) -> float | None:
        return None

    def interrupted(self) -> dict[str, InterruptedStep]:
        return {}

    def previous_findings(self, run: int) -> PreviousFindings | None:
        return None

    def completed_steps(self) -> list[CompletedStep]:
        return []


def _recorded(connection: BaseDatabaseWrapper) -> set[str]:
    """Return the recorded migrations, read on this connection.

    `MigrationRecorder.applied_migrations` would use the thread's own connection of the alias.
    """
    recorder = MigrationRecorder(connection)
    if not recorder.has_table():
        return set()
    rows = recorder.Migration.objects.values_list("app", "name")
    statement, params = rows.query.get_compiler(connection=connection).as_sql()
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        return {f"{app}.{name}" for app, name in cursor.fetchall()}
