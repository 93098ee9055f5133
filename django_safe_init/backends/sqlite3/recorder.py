"""Write the status tables on SQLite, under the leader lock.

The recorder writes between migrations, on a dedicated connection, which a migration cannot close
or leave in a transaction. While a migration's transaction is open, no other connection can write.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from django_safe_init.backends.base.recorder import Fence, RunEnd, TableRecorder
from django_safe_init.backends.sqlite3.lock_file import ProgressRecord
from django_safe_init.backends.sqlite3.schema import NOW, ensure_tables
from django_safe_init.backends.sqlite3.session import SQLiteSession
from django_safe_init.core.build import Build
from django_safe_init.core.records import OPERATION_TABLE, RUN_TABLE, STEP_TABLE
from django_safe_init.core.states import State

T = TypeVar("T")
Statement = tuple[str, Mapping[str, Any]]

_UPDATE_RUN = f"""
    UPDATE {RUN_TABLE} SET state = :state, done = :done, total = :total, progress = :progress,
      message = :message, heartbeat_at = {NOW} WHERE id = :run
"""
_CLOSE_RUN = f"""
    UPDATE {RUN_TABLE} SET finished_at = {NOW}, outcome = :outcome, error = :error,
      traceback = :traceback WHERE id = :run
"""
_START_STEP = f"""
    INSERT INTO {STEP_TABLE} (run_id, position, kind, name, backwards, atomic, started_at, detail)
    VALUES (:run, :position, :kind, :name, :backwards, :atomic, {NOW}, :detail)
"""
_FINISH_STEP = f"""
    UPDATE {STEP_TABLE} SET outcome = :outcome, finished_at = max(started_at,
      strftime('%Y-%m-%d %H:%M:%f', 'now', printf('-%f seconds', :ago)))
    WHERE run_id = :run AND position = :position AND outcome IS NULL
"""


class SQLiteRecorder(TableRecorder):
    """The recorder on SQLite, which waits for other writers of the database.

    `verify` raises `LockLost` unless this process leads.
    """

    now_sql = NOW
    pid_sql = "%(pid)s"

    def __init__(
        self,
        session: SQLiteSession,
        build: Build,
        lock_key: str | None,
        verify: Callable[[], None],
    ) -> None:
        super().__init__(build, lock_key)
        self.session = session
        self._verify = verify
        self._step = 0
        self._step_is_atomic = True
        #: The last step's outcome and end time, until they are in the table.
        self._ended: tuple[str, float] | None = None

    def ensure_tables(self) -> None:
        with self.session.writing():
            ensure_tables(self.session)

    def update(self, state: State, message: str = "") -> None:
        self.state = state
        self.message = message
        self._write()

    def start_step(
        self,
        name: str,
        *,
        backwards: bool,
        atomic: bool,
        detail: Any = None,
        kind: str = "migration",
    ) -> Fence:
        self.message = self.step = name
        self.progress.clear()
        params = {
            "run": self.run_id,
            "position": self.done + 1,
            "kind": kind,
            "name": name,
            "backwards": backwards,
            "atomic": atomic,
            "detail": None if detail is None else json.dumps(detail),
        }
        self._write((_START_STEP, params))
        self._step, self._step_is_atomic = self.done + 1, atomic
        return Fence(self._verify)

    def finish_step(self, outcome: str) -> None:
        self.progress.clear()
        self._ended = (outcome, time.monotonic())
        self.done += outcome != "failed"
        if not self._step_is_atomic:
            self._write()

    def _transaction(self, work: Callable[[], T]) -> T:
        with self.session.writing():
            return work()

    def _rows(self, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return self.session.tuples(statement, params)

    def _has_journal(self) -> bool:
        return bool(
            self._rows(
                "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name",
                {"name": OPERATION_TABLE},
            )
        )

    def _begin_run(self, ends: list[RunEnd], command: str) -> int:
        self._execute(*self._end_statements(ends), self._insert_statement(command))
        [row] = self.session.rows("SELECT last_insert_rowid() AS id")
        return int(row["id"])

    def _end_runs(self, ends: list[RunEnd]) -> None:
        self._execute(*self._end_statements(ends))

    def _close_run(
        self, outcome: str, state: State, error: str | None, traceback: str | None
    ) -> None:
        self.state = state
        params = {
            "run": self.run_id,
            "outcome": outcome,
            "error": error,
            "traceback": traceback,
        }
        self._execute(
            *self._ended_step(), (_UPDATE_RUN, self._run_params()), (_CLOSE_RUN, params)
        )

    def _delete_runs(self, runs: list[int]) -> None:
        for run in runs:
            self._rows(f"DELETE FROM {STEP_TABLE} WHERE run_id = :id", {"id": run})
            self._rows(f"DELETE FROM {RUN_TABLE} WHERE id = :id", {"id": run})

    def _write(self, *statements: Statement) -> None:
        """Write the end of the last step, the statements, and the run, in one transaction."""
        with self.session.writing():
            self._execute(
                *self._ended_step(), *statements, (_UPDATE_RUN, self._run_params())
            )
        self._ended = None

    def _execute(self, *statements: Statement) -> None:
        for statement, params in statements:
            self._rows(statement, params)

    def _ended_step(self) -> list[Statement]:
        if self._ended is None:
            return []
        outcome, at = self._ended
        params = {
            "run": self.run_id,
            "position": self._step,
            "outcome": outcome,
            "ago": time.monotonic() - at,
        }
        return [(_FINISH_STEP, params)]

    def progress_record(self) -> bytes:
        """Return the progress for the lock file, because a migration locks the tables."""
        record = ProgressRecord(
            self.run_id,
            self.done,
            self.progress.percent(self.done, self.total),
            self.progress.publish(),
            self.progress.operation,
            self.message,
        )
        return record.encoded()
