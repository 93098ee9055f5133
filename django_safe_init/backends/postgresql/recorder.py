"""Write the status tables on PostgreSQL, on the leader session.

A leader that lost the session also lost the lock and cannot write, so no write needs a fence. The
session is not the migrating connection, so progress is visible while a migration's transaction is
open.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg

from django_safe_init.backends.base.recorder import Fence, RunEnd, TableRecorder
from django_safe_init.backends.postgresql.errors import (
    is_connection_loss,
    session_error,
)
from django_safe_init.backends.postgresql.lock import (
    AdvisoryLock,
    LockSnapshot,
    snapshot_params,
    snapshot_sql,
)
from django_safe_init.backends.postgresql.lock_holders import (
    LOCKED,
    retry_while_locked,
)
from django_safe_init.backends.postgresql.lock_keys import LOCK_TIMEOUT
from django_safe_init.backends.postgresql.pipeline import PendingQuery
from django_safe_init.backends.postgresql.refused_rows import (
    NO_ROW,
    ids_do_not_rise,
    refusal,
    refused_row,
)
from django_safe_init.backends.postgresql.schema import (
    ensure_journal,
    ensure_schemas,
    ensure_tables,
    grant_delete_hint,
    missing_privilege,
)
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.backends.tenants import get_tenancy
from django_safe_init.core.build import Build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.progress import ProgressUpdate
from django_safe_init.core.records import (
    OPERATION_TABLE,
    RUN_TABLE,
    STEP_TABLE,
    LostRuns,
)
from django_safe_init.core.schemas import SCHEMA_TABLE, SchemaState
from django_safe_init.core.states import State
from django_safe_init.core.text import escape, one_line
from django_safe_init.exceptions import UnsafeConnection

logger = logging.getLogger("django_safe_init")
T = TypeVar("T")

#: The longest wait for a lock on the status tables, in seconds.
_RETRY_SECONDS = 60.0
#: The shortest limit of that wait for a run that is open, so that its end is recorded.
_MIN_RETRY_SECONDS = 5.0

#: On return, this write and all earlier commits are on disk.
_CLOSE_RUN = f"""
    SET LOCAL synchronous_commit TO DEFAULT;
    UPDATE {RUN_TABLE}
    SET state = %(state)s, done = %(done)s, total = %(total)s, progress = %(progress)s,
        message = %(message)s, item_done = NULL, item_total = NULL, item_message = NULL,
        operation = NULL, schemas = %(schemas)s,
        finished_at = clock_timestamp(), heartbeat_at = clock_timestamp(),
        outcome = %(outcome)s, error = %(error)s, traceback = %(traceback)s
    WHERE id = %(run)s
"""

#: On return, the write is on disk.
_ON_DISK = """
    SELECT set_config('synchronous_commit', 'on', true)
    WHERE current_setting('synchronous_commit') = 'off';
"""

#: A run that brought a tenant's schema up to date is no failure, however it ended.
_RUNS_WITH_SCHEMAS = f"""
    SELECT DISTINCT run_id FROM {SCHEMA_TABLE}
    WHERE lock_key = %(lock_key)s AND state = '{SchemaState.DONE.value}'
      AND run_id IS NOT NULL
"""

_DELETE_RUNS = f"""
    DELETE FROM {STEP_TABLE} WHERE run_id = ANY(%(runs)s);
    DELETE FROM {RUN_TABLE} WHERE id = ANY(%(runs)s)
"""

#: The statements of every migration. A step that its own transaction recorded as done stays done,
#: even if the process fails after the commit. They are prepared, because each migration invalidates
#: the server's catalog cache, and planning would cost more than writing.
_PREPARED = {
    "safe_init_start_step": """
        INSERT INTO django_safe_init_step
          (run_id, position, kind, name, backwards, atomic, started_at, detail)
        VALUES ($1, $2, $3, $4, $5, $6,
                clock_timestamp() - make_interval(secs => $7), $8)
    """,
    "safe_init_finish_step": """
        UPDATE django_safe_init_step
        SET outcome = $3, finished_at =
              greatest(started_at, clock_timestamp() - make_interval(secs => $4))
        WHERE run_id = $1 AND position = $2 AND outcome IS NULL
    """,
    "safe_init_update_run": """
        UPDATE django_safe_init_run
        SET state = $2, done = $3, total = $4, progress = $5, message = $6,
            item_done = $7, item_total = $8, item_message = $9, operation = $10,
            schemas = $11, heartbeat_at = clock_timestamp()
        WHERE id = $1
    """,
    "safe_init_read_lock": f"""
        SELECT set_config('application_name', $1, false), {snapshot_sql("$2", "$3")}
    """,
}

_START_STEP = """
    EXECUTE safe_init_start_step(%(run)s, %(position{i})s, %(kind{i})s,
                                 %(name{i})s, %(backwards{i})s,
                                 %(atomic{i})s, %(started{i})s, %(detail{i})s);
"""
_FINISH_STEP = """
    EXECUTE safe_init_finish_step(%(run)s, %(position{i})s, %(outcome{i})s, %(finished{i})s);
"""
_UPDATE_RUN = """
    EXECUTE safe_init_update_run(%(run)s, %(state)s, %(done)s, %(total)s, %(progress)s,
                                 %(message)s, %(item_done)s, %(item_total)s,
                                 %(item_message)s, %(operation)s, %(schemas)s);
    EXECUTE safe_init_read_lock(%(application_name)s, %(leader_key)s, %(work_key)s);
"""


@dataclass(eq=False)
class _PendingStep:
    """A step whose row is missing or out of date."""

    position: int
    name: str
    backwards: bool
    atomic: bool
    detail: Any = None
    kind: str = "migration"
    outcome: str | None = None
    started: float = field(default_factory=time.monotonic)
    finished: float = 0.0
    inserted: bool = False

    def sql(self, i: int) -> str:
        start = "" if self.inserted else _START_STEP
        return (start + (_FINISH_STEP if self.outcome else "")).replace("{i}", str(i))

    def params(self, i: int) -> dict[str, Any]:
        return {
            f"position{i}": self.position,
            f"name{i}": self.name,
            f"backwards{i}": self.backwards,
            f"atomic{i}": self.atomic,
            f"started{i}": time.monotonic() - self.started,
            f"finished{i}": time.monotonic() - self.finished,
            f"detail{i}": None if self.detail is None else json.dumps(self.detail),
            f"kind{i}": self.kind,
            f"outcome{i}": self.outcome,
        }


class PostgresRecorder(TableRecorder):
    """The recorder on PostgreSQL, which the heartbeat's thread may use too.

    Progress is written on a best effort. If a migration locks the status tables, the server
    drops the write, and the next write catches up. All other writes are retried. `verify` raises
    `LockLost` unless a snapshot of the lock shows that this process leads. By default it checks
    only the leader lock.
    """

    now_sql = "clock_timestamp()"
    pid_sql = "pg_backend_pid()"

    def __init__(
        self,
        session: Session,
        build: Build,
        lock_key: str | None,
        verify: Callable[[LockSnapshot | None], object] | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        super().__init__(build, lock_key)
        self.session = session
        self._deadline = deadline or Deadline(None)
        self._verify = verify or AdvisoryLock(session, lock_key).verify
        self._snapshot_params = snapshot_params(lock_key)
        self._snapshot: LockSnapshot | None = None
        #: True once the table of the tenants' schemas is known to exist.
        self._has_schemas = False
        self._unsaved: list[_PendingStep] = []
        #: The query in flight, and its steps with their earlier `inserted`.
        self._sent: PendingQuery | None = None
        self._in_flight: list[tuple[_PendingStep, bool]] = []
        self._lock = threading.RLock()

    def ensure_tables(self) -> None:
        self._write_with_retry(lambda: ensure_tables(self.session))

    def ensure_journal(self) -> None:
        """Create the table of the journal, or add the columns it lacks."""
        with self._lock:
            self._write_with_retry(lambda: ensure_journal(self.session))

    def _runs_with_progress(self) -> set[int]:
        """Return also the runs that finished the schema of a tenant."""
        found = super()._runs_with_progress()
        if get_tenancy(self.session.alias) is not None and self._has(SCHEMA_TABLE):
            rows = self.session.rows(_RUNS_WITH_SCHEMAS, {"lock_key": self.lock_key})
            found.update(run for (run,) in rows)
        return found

    def ensure_schemas(self) -> None:
        """Create the table of the tenants' schemas, or add the columns it lacks."""
        if self._has_schemas:
            return
        with self._lock:
            self._write_with_retry(lambda: ensure_schemas(self.session))
        self._has_schemas = True

    def open_run(
        self, command: str, lost: LostRuns | None = None, release: str | None = None
    ) -> str | None:
        self.session.rows(
            f"SELECT set_config('lock_timeout', '{LOCK_TIMEOUT}', false),"
            " CASE WHEN current_setting('synchronous_standby_names') = ''"
            " THEN set_config('synchronous_commit', 'off', false) END"
        )
        reason = super().open_run(command, lost, release)
        if reason is None:
            self._write_with_retry(lambda: self.session.prepare(_PREPARED))
        return reason

    def update(self, state: State, message: str = "") -> None:
        with self._lock:
            self.state = state
            self.message = message
            self._write_best_effort()

    def heartbeat(
        self, read_progress: Callable[[], ProgressUpdate | None] = lambda: None
    ) -> None:
        """Record that the leader is alive, and the progress of its statement.

        No step starts or ends between the call of `read_progress` and the write.
        """
        with self._lock:
            self.progress.statement = read_progress()
            self._write_best_effort()

    def start_step(
        self,
        name: str,
        *,
        backwards: bool,
        atomic: bool,
        detail: Any = None,
        kind: str = "migration",
    ) -> Fence:
        with self._lock:
            self.message = self.step = name
            self.progress.clear()
            self._snapshot = None
            self._unsaved.append(
                _PendingStep(self.done + 1, name, backwards, atomic, detail, kind)
            )
            if atomic and kind == "migration":
                self._send()
            else:
                self._write_with_retry(lambda: self._write(_ON_DISK))
        return Fence(self._verify_fence)

    def _verify_fence(self) -> None:
        """Verify the snapshot that the step's start returned, or a new one if it was dropped."""
        with self._lock:
            self._receive()
            snapshot = self._snapshot
        self._verify(snapshot)

    def finish_step(self, outcome: str) -> None:
        with self._lock:
            self.progress.clear()
            if not self._unsaved:
                self._unsaved.append(self._running)
            step = self._unsaved[-1]
            step.outcome, step.finished = outcome, time.monotonic()
            self.done += outcome != "failed"
            if not step.atomic:
                self._write_best_effort()

    def prune(self, keep: int, needed: AbstractSet[int]) -> None:
        """Delete the oldest runs, or log why they remain. Raises `LockLost`."""
        try:
            with self._lock:
                self._prune(keep, needed)
        except psycopg.errors.InsufficientPrivilege:
            logger.warning("Old runs are kept. %s", grant_delete_hint(self.session))
        except psycopg.Error as exc:
            if is_connection_loss(exc):
                raise session_error(exc) from exc
            logger.warning("Old runs are kept for now: %s", one_line(exc))

    def _transaction(self, work: Callable[[], T]) -> T:
        # The leader lock excludes other writers, so only the write itself must be atomic.
        with self._lock:
            return self._write_with_retry(work)

    def _rows(self, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return self.session.rows(statement, params)

    def _has_journal(self) -> bool:
        return self._has(OPERATION_TABLE)

    def _has(self, name: str) -> bool:
        """Return True if the table of this package exists."""
        table = self.session.tables.qualified(name)
        [(exists,)] = self.session.rows(
            "SELECT to_regclass(%(table)s) IS NOT NULL", {"table": table}
        )
        return bool(exists)

    def _complete_step_sql(self) -> str:
        # Django's connection has the project's search path.
        return self.session.tables.qualify(
            f"UPDATE {STEP_TABLE} SET outcome = %s,"
            " finished_at = pg_catalog.clock_timestamp()"
            " WHERE run_id OPERATOR(pg_catalog.=) %s"
            " AND position OPERATOR(pg_catalog.=) %s",
            has_params=True,
        )

    def _begin_run(self, ends: list[RunEnd], command: str) -> int:
        insert, params = self._insert_statement(command)
        with self.session.raw.transaction():
            self._close_left_open(ends)
            run = self._insert_newest(f"{insert} RETURNING id", params)
            # Before the commit, whose answer may be lost.
            self.run_id = int(run)
        return self.run_id

    def _insert_newest(self, insert: str, params: Mapping[str, Any]) -> int:
        """Insert a run and return its id, which is the highest of all.

        Raises `UnsafeConnection` if the table takes no row, and `MissingPrivilege` if the sequence
        is behind the rows: `ensure_tables` repairs it if this role may.
        """
        newest = f"SELECT coalesce(max(id), 0) FROM {RUN_TABLE}"
        [(before,)] = self.session.rows(newest)
        error: psycopg.Error | None = None
        try:
            with self.session.raw.transaction():
                for (run,) in self.session.rows(insert, params):
                    if run > before:
                        return int(run)
                    break
                else:
                    raise refused_row(self.session, RUN_TABLE, NO_ROW)
        except psycopg.errors.UniqueViolation as exc:
            error = exc
        raise ids_do_not_rise(self.session, RUN_TABLE, error) from error

    def _end_runs(self, ends: list[RunEnd]) -> None:
        with self.session.raw.transaction():
            self._close_left_open(ends)

    def _close_left_open(self, ends: list[RunEnd]) -> None:
        for statement, params in self._end_statements(ends):
            self.session.rows(statement, params)

    def _close_run(
        self, outcome: str, state: State, error: str | None, traceback: str | None
    ) -> None:
        self._write()
        texts = {"error": error, "traceback": traceback}
        params = {**self._run_params(state), "outcome": outcome}
        try:
            self.session.rows(_CLOSE_RUN, {**params, **texts})
        except psycopg.DataError:  # the database's encoding lacks a character
            plain = {name: text and escape(text) for name, text in texts.items()}
            self.session.rows(_CLOSE_RUN, {**params, **plain})
        # Not before: a retry writes again, and an open run must not show a final state.
        self.state = state

    def _delete_runs(self, runs: list[int]) -> None:
        self.session.rows(_DELETE_RUNS, {"runs": runs})

    def _run_params(self, state: State | None = None) -> dict[str, Any]:
        items = self.progress.publish() or (None, None, None)
        return {
            **super()._run_params(state),
            "item_done": items[0],
            "item_total": items[1],
            "item_message": items[2],
            "application_name": self._application_name(),
        }

    def _application_name(self) -> str:
        """Return the name that every role sees in `pg_stat_activity`, at most 63 bytes."""
        step = f" {self.done + 1}/{self.total} {self.message}" if self.message else ""
        return f"safe_init {self.state.value if not step else step.strip()}"[:63]

    def _write(self, prefix: str = "") -> None:
        """Write all unsaved changes, in one message and transaction."""
        self._confirm()
        self._read_snapshot(self.session.rows(*self._message(prefix)))
        self._mark_written()

    def _read_snapshot(self, rows: list[Any]) -> None:
        [(_, leads, pids)] = rows
        self._snapshot = LockSnapshot(leads, frozenset(pids))

    def _message(self, prefix: str = "") -> tuple[str, dict[str, Any]]:
        params = {**self._run_params(), **self._snapshot_params}
        for i, step in enumerate(self._unsaved):
            params.update(step.params(i))
        steps = "".join(step.sql(i) for i, step in enumerate(self._unsaved))
        return prefix + steps + _UPDATE_RUN, params

    def _mark_written(self) -> None:
        for step in self._unsaved:
            step.inserted = True
            self._running = step
        self._unsaved.clear()

    def _write_best_effort(self) -> None:
        try:
            self._write()
        except LOCKED:
            _log_dropped()
        except psycopg.Error as exc:
            raise self._refusal(exc) or session_error(exc) from exc

    def _send(self) -> None:
        """Write without waiting; the next write receives the result."""
        self._receive()
        self._in_flight = [(step, step.inserted) for step in self._unsaved]
        self._sent = self.session.send(*self._message())
        self._mark_written()

    def _receive(self) -> None:
        try:
            self._confirm()
        except psycopg.Error as exc:
            raise self._refusal(exc) or session_error(exc) from exc

    def _refusal(self, error: psycopg.Error) -> UnsafeConnection | None:
        """Return the error for a row that a status table refused; None for any other error."""
        return refusal(self.session, error, STEP_TABLE if self.run_id else RUN_TABLE)

    def _confirm(self) -> None:
        """Receive the result of the query in flight; if it was dropped, keep its steps unsaved."""
        sent, self._sent = self._sent, None
        try:
            if sent is not None:
                self._read_snapshot(sent.rows())
        except LOCKED:
            _log_dropped()
            for step, inserted in self._in_flight:
                step.inserted = inserted
            dropped = [step for step, _ in self._in_flight]
            self._unsaved = dropped + [
                step for step in self._unsaved if step not in dropped
            ]

    def _write_with_retry(self, write: Callable[[], T]) -> T:
        seconds = self._deadline.clip(_RETRY_SECONDS)
        if self.run_id:
            seconds = max(seconds, _MIN_RETRY_SECONDS)
        try:
            return retry_while_locked(write, self.session, seconds)
        except psycopg.errors.InsufficientPrivilege as exc:
            refused = self._refusal(exc)
            raise refused or missing_privilege(self.session, exc) from exc
        except psycopg.Error as exc:
            raise self._refusal(exc) or session_error(exc) from exc


def _log_dropped() -> None:
    logger.debug("The status tables are locked: a write of progress was dropped.")
