"""The only writer of the two tables, on the leader session.

A leader that lost the session lost the lock with it and cannot write: no write needs a fence.
Because the session is not the migrating connection, progress is visible while a migration's
transaction is open.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg

from django_safe_init.backends.postgresql.lock import (
    LockSnapshot,
    snapshot_params,
    snapshot_sql,
)
from django_safe_init.backends.postgresql.pipeline import PendingQuery
from django_safe_init.backends.postgresql.schema import missing_privilege
from django_safe_init.backends.postgresql.session import Session, session_error
from django_safe_init.core import cancellation
from django_safe_init.core.build import Build
from django_safe_init.core.progress import ProgressTracker, ProgressUpdate
from django_safe_init.core.records import (
    MAX_TRANSIENT_FAILURES,
    TRANSIENT_OUTCOMES,
    LostRuns,
)
from django_safe_init.core.states import State
from django_safe_init.core.text import printable
from django_safe_init.version import __version__

logger = logging.getLogger("django_safe_init")
T = TypeVar("T")

_LOCK_TIMEOUT = "500ms"
_PATIENCE_SECONDS = 60.0

_PRIOR_STRIKES = """
    SELECT count(*) FROM django_safe_init_run
    WHERE lock_key = %(lock_key)s AND build = %(build)s AND outcome = ANY(%(transient)s)
      AND id <> ALL(%(lost)s::bigint[])
      AND id > coalesce((
        SELECT max(id) FROM django_safe_init_run
        WHERE lock_key = %(lock_key)s AND build = %(build)s
          AND outcome <> ALL(%(transient)s)), 0)
"""

_OPEN_RUN = f"""
    WITH dead AS (
      UPDATE django_safe_init_run
      SET state = 'error', finished_at = clock_timestamp(),
          outcome = CASE WHEN id = ANY(%(lost)s::bigint[])
                    THEN 'transient' ELSE 'abandoned' END,
          error = CASE WHEN id = ANY(%(lost)s::bigint[]) THEN %(reason)s
                  ELSE 'the leader ' || leader || ' died' ||
                  CASE WHEN message = '' THEN '' ELSE ' in ' || message END END
      WHERE lock_key = %(lock_key)s AND finished_at IS NULL
      RETURNING id, build),
    dying AS (
      SELECT max(id) AS id, count(*) AS n FROM dead
      WHERE build = %(build)s AND id <> ALL(%(lost)s::bigint[])),
    strikes AS (SELECT ({_PRIOR_STRIKES}) + (SELECT n FROM dying) AS n),
    opened AS (
      INSERT INTO django_safe_init_run
        (lock_key, build, state, leader, backend_pid, command, version,
         started_at, heartbeat_at)
      SELECT %(lock_key)s, %(build)s, %(state)s, %(leader)s, pg_backend_pid(), %(command)s,
             %(version)s, clock_timestamp(), clock_timestamp()
      FROM strikes, dying WHERE strikes.n < %(strikes)s OR dying.id IS NULL
      RETURNING id)
    SELECT (SELECT id FROM opened), (SELECT id FROM dying)
"""

_FAIL_RUN = """
    UPDATE django_safe_init_run
    SET outcome = 'failed', error = %(prefix)s || error WHERE id = %(run)s RETURNING error
"""

#: On disk when it returns, and with it whatever was committed before.
_CLOSE_RUN = f"""
    SET LOCAL synchronous_commit TO DEFAULT;
    WITH strikes AS (SELECT ({_PRIOR_STRIKES}) + 1 AS n)
    UPDATE django_safe_init_run
    SET state = %(state)s, done = %(done)s, total = %(total)s, progress = %(progress)s,
        message = %(message)s, item_done = NULL, item_total = NULL, item_message = NULL,
        finished_at = clock_timestamp(),
        heartbeat_at = clock_timestamp(), error = %(error)s,
        outcome = CASE WHEN n >= %(strikes)s AND %(outcome)s = ANY(%(transient)s)
                  THEN 'failed' ELSE %(outcome)s END
    FROM strikes WHERE id = %(run)s RETURNING outcome
"""

#: A write that was not done, and can be tried again. A cancellation may be one that was meant for
#: the statement before: PostgreSQL cancels whatever runs when it arrives.
_DROPPED = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)

#: What every migration writes. A step that is recorded as done in its own transaction stays done,
#: whatever happens after the commit. Prepared: after each, the server has forgotten what it knew of
#: its catalog, and planning would cost more than writing.
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
            item_done = $7, item_total = $8, item_message = $9,
            heartbeat_at = clock_timestamp()
        WHERE id = $1
    """,
    "safe_init_prove": f"""
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
                                 %(item_message)s);
    EXECUTE safe_init_prove(%(application_name)s, %(leader_key)s, %(work_key)s);
"""


@dataclass(eq=False)
class _PendingStep:
    """A step that is not yet in the table as it should be."""

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


class PostgresRecorder:
    """Writes one run and its steps; safe to use from the heartbeat's thread too.

    Progress is written when it can be: a write that meets a lock on our tables (a migration
    may hold one) is dropped, and the next one makes up for it. What must be there is tried
    again. Every method raises `LockLost` when the leader session is gone, and
    `InitializationFailed` when the server refuses to write.
    """

    def __init__(self, session: Session, build: Build, lock_key: str | None) -> None:
        self.session = session
        self.run = 0
        self.state = State.CHECKING_SCHEMA
        self.done = 0
        self.total = 0
        self.message = ""
        #: How far the running step is in its own work.
        self.loops = ProgressTracker()
        self._identity: dict[str, Any] = {
            "lock_key": lock_key or "",
            "build": build.fingerprint,
            "transient": list(TRANSIENT_OUTCOMES),
            "strikes": MAX_TRANSIENT_FAILURES,
            "lost": [],
        }
        self._proof_params = snapshot_params(lock_key)
        self._proof: LockSnapshot | None = None
        self._dirty: list[_PendingStep] = []
        #: What was sent and not waited for, and the steps in it with what was there before.
        self._sent: PendingQuery | None = None
        self._unsure: list[tuple[_PendingStep, bool]] = []
        self._guard = threading.RLock()

    def open_run(self, command: str, lost: LostRuns | None = None) -> str | None:
        """Close what a dead leader left open and open a run, in one statement.

        Runs that this process has lost are no strikes: it lives, and `RESTARTS` limits it.
        If that was the third transient end of this build in a row, no run is opened: the dead
        one is marked as failed, so that all who wait stop, and its reason is returned.
        """
        self.session.rows(
            f"SELECT set_config('lock_timeout', '{_LOCK_TIMEOUT}', false),"
            " set_config('synchronous_commit', 'off', false)"
        )
        lost = lost or LostRuns()
        self._identity["lost"] = list(lost.runs)
        params = {
            **self._identity,
            "reason": printable(lost.reason),
            "state": self.state.value,
            "leader": f"{socket.gethostname()}:{os.getpid()}",
            "command": command,
            "version": __version__,
        }
        [(run, dying)] = self._insist(lambda: self.session.rows(_OPEN_RUN, params))
        if run is None:
            return self._fail_for_good(dying)
        self.run = run
        self._insist(lambda: self.session.prepare(_PREPARED))
        return None

    def _fail_for_good(self, run: int) -> str:
        params = {
            "run": run,
            "prefix": f"{MAX_TRANSIENT_FAILURES} times in a row, the last time: ",
        }
        [(reason,)] = self._insist(lambda: self.session.rows(_FAIL_RUN, params))
        self.run = run
        return str(reason)

    def update(self, state: State, message: str = "") -> None:
        """Say what the run is doing."""
        with self._guard:
            self.state = state
            self.message = message
            self._try_to_write()

    def heartbeat(
        self, look: Callable[[], ProgressUpdate | None] = lambda: None
    ) -> None:
        """Say that the leader is alive, and how far `look` says that the statement is.

        Nobody starts or ends a step between the look and the write.
        """
        with self._guard:
            self.loops.statement = look()
            self._try_to_write()

    def start_step(
        self,
        name: str,
        *,
        backwards: bool,
        atomic: bool,
        detail: Any = None,
        kind: str = "migration",
    ) -> None:
        """Mark a step as started; the mark is on disk on return, but for an atomic migration's.

        That one is on its way to the server: it arrives even if this process dies.
        """
        with self._guard:
            self.message = name
            self.loops.clear()
            self._proof = None
            self._dirty.append(
                _PendingStep(self.done + 1, name, backwards, atomic, detail, kind)
            )
            if atomic and kind == "migration":
                self._send()
            else:
                self._insist(lambda: self._write("SET LOCAL synchronous_commit = on; "))

    def proof(self) -> LockSnapshot | None:
        """What the leader session saw of the keys when it wrote the start of the step.

        None if that write was dropped.
        """
        with self._guard:
            self._checked_confirm()
            return self._proof

    def finish_step(self, outcome: str) -> None:
        """Mark the running step as finished.

        For an atomic step that is written with what comes next: the start of another step,
        the end of the run, or the heartbeat.
        """
        with self._guard:
            self.loops.clear()
            if not self._dirty:
                self._dirty.append(self._running)
            step = self._dirty[-1]
            step.outcome, step.finished = outcome, time.monotonic()
            self.done += outcome != "failed"
            if not step.atomic:
                self._try_to_write()

    def finish_run(self, outcome: str, state: State, error: str | None = None) -> str:
        """Close the run. Returns the outcome as it was written.

        A transient outcome that is the third of this build in a row is written as "failed".
        """
        with self._guard:
            self._insist(self._write)
            # Not before: an open run in one of these two states would be a lie.
            self.state = state
            try:
                return self._close(outcome, error)
            except psycopg.DataError:  # this database's encoding lacks a character
                return self._close(outcome, ascii(error))

    def _close(self, outcome: str, error: str | None) -> str:
        params = {
            **self._identity,
            **self._present(),
            "outcome": outcome,
            "error": error,
        }
        [(written,)] = self._insist(lambda: self.session.rows(_CLOSE_RUN, params))
        return str(written)

    def _present(self) -> dict[str, Any]:
        percent = self.loops.percent(self.done, self.total)
        items = self.loops.publish() or (None, None, None)
        return {
            "run": self.run,
            "state": self.state.value,
            "done": self.done,
            "total": self.total,
            "progress": 100 if self.state is State.READY else percent,
            "message": self.message,
            "item_done": items[0],
            "item_total": items[1],
            "item_message": items[2],
            "application_name": self._application_name(),
        }

    def _application_name(self) -> str:
        """Visible to every role in pg_stat_activity, in 63 bytes."""
        step = f" {self.done + 1}/{self.total} {self.message}" if self.message else ""
        return f"safe_init {self.state.value if not step else step.strip()}"[:63]

    def _write(self, prefix: str = "") -> None:
        """All that is not in the tables yet, in one message and one transaction."""
        self._confirm()
        self._take(self.session.rows(*self._message(prefix)))
        self._written()

    def _take(self, rows: list[Any]) -> None:
        [(_, leads, marked)] = rows
        self._proof = LockSnapshot(leads, frozenset(marked))

    def _message(self, prefix: str = "") -> tuple[str, dict[str, Any]]:
        params = {**self._present(), **self._proof_params}
        for i, step in enumerate(self._dirty):
            params.update(step.params(i))
        steps = "".join(step.sql(i) for i, step in enumerate(self._dirty))
        return prefix + steps + _UPDATE_RUN, params

    def _written(self) -> None:
        for step in self._dirty:
            step.inserted = True
            self._running = step
        self._dirty.clear()

    def _try_to_write(self) -> None:
        try:
            self._write()
        except _DROPPED:
            _log_dropped()
        except psycopg.Error as exc:
            raise session_error(exc) from exc

    def _send(self) -> None:
        """As `_try_to_write`, without waiting: what became of it shows at the next write."""
        self._checked_confirm()
        self._unsure = [(step, step.inserted) for step in self._dirty]
        self._sent = self.session.send(*self._message())
        self._written()

    def _checked_confirm(self) -> None:
        try:
            self._confirm()
        except psycopg.Error as exc:
            raise session_error(exc) from exc

    def _confirm(self) -> None:
        """Learn what became of what was sent; what was dropped is to be written again."""
        sent, self._sent = self._sent, None
        try:
            if sent is not None:
                self._take(sent.rows())
        except _DROPPED:
            _log_dropped()
            for step, inserted in self._unsure:
                step.inserted = inserted
            dropped = [step for step, _ in self._unsure]
            self._dirty = dropped + [
                step for step in self._dirty if step not in dropped
            ]

    def _insist(self, write: Callable[[], T]) -> T:
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return write()
            except _DROPPED:
                cancellation.check()
                if time.monotonic() > end:
                    raise
            except psycopg.DataError:
                raise
            except psycopg.errors.InsufficientPrivilege as exc:
                raise missing_privilege(self.session, exc) from exc
            except psycopg.Error as exc:
                raise session_error(exc) from exc


def _log_dropped() -> None:
    logger.debug("The status tables are locked: a write of progress was dropped.")
