"""The only writer of the two tables on SQLite, under the leader lock.

It writes between migrations, on a connection of its own, which a migration can neither close nor
leave in a transaction. While a migration's transaction is open nobody else can write.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from typing import Any, TypeVar

from django_safe_init.backends.sqlite3.lock_file import ProgressRecord
from django_safe_init.backends.sqlite3.schema import NOW
from django_safe_init.backends.sqlite3.session import SQLiteSession
from django_safe_init.core.build import Build
from django_safe_init.core.columns import RUN_TABLE, STEP_TABLE
from django_safe_init.core.progress import ProgressTracker
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
Statement = tuple[str, dict[str, Any]]

_PATIENCE_SECONDS = 60.0

_OPEN = f"""
    SELECT id, build, leader, message FROM {RUN_TABLE}
    WHERE lock_key = :lock_key AND finished_at IS NULL ORDER BY id
"""
_BURY = f"""
    UPDATE {RUN_TABLE} SET state = 'error', finished_at = {NOW}, outcome = :outcome, error = :error
    WHERE id = :id
"""
_INSERT_RUN = f"""
    INSERT INTO {RUN_TABLE} (lock_key, build, state, leader, backend_pid, command, version,
                             started_at, heartbeat_at)
    VALUES (:lock_key, :build, :state, :leader, :pid, :command, :version, {NOW}, {NOW})
"""
_ENDS = f"""
    SELECT id, outcome FROM {RUN_TABLE} WHERE lock_key = :lock_key AND build = :build
      AND outcome IS NOT NULL ORDER BY id DESC
"""
_FAIL_RUN = f"UPDATE {RUN_TABLE} SET outcome = 'failed', error = :error WHERE id = :id"
_UPDATE_RUN = f"""
    UPDATE {RUN_TABLE} SET state = :state, done = :done, total = :total, progress = :progress,
      message = :message, heartbeat_at = {NOW} WHERE id = :run
"""
_CLOSE_RUN = f"""
    UPDATE {RUN_TABLE} SET finished_at = {NOW}, outcome = :outcome, error = :error WHERE id = :run
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


class SQLiteRecorder:
    """Writes one run and its steps. See `engines.base.RunRecorder`.

    Whoever else writes to the database is waited for. Raises `InitializationFailed` when that
    takes too long.
    """

    def __init__(
        self, session: SQLiteSession, build: Build, lock_key: str | None
    ) -> None:
        self.session = session
        self.run = 0
        self.state = State.CHECKING_SCHEMA
        self.done = 0
        self.total = 0
        self.message = ""
        #: How far the running step is in its own work.
        self.loops = ProgressTracker()
        self._identity = {"lock_key": lock_key or "", "build": build.fingerprint}
        self._lost: frozenset[int] = frozenset()
        self._step = 0
        self._step_is_atomic = True
        #: How the last step has ended and when, if that is not in the table yet.
        self._ended: tuple[str, float] | None = None

    def open_run(self, command: str, lost: LostRuns | None = None) -> str | None:
        """Close what a dead leader left open and open a run, in one transaction.

        Returns the reason if that was the third transient end of this build in a row: then the
        dead one is marked as failed. Runs that this process has lost are no strikes.
        """
        lost = lost or LostRuns()
        self._lost = frozenset(lost.runs)
        with self.session.writing():
            return self._open_run(command, lost.reason)

    def _open_run(self, command: str, reason: str) -> str | None:
        dying = [
            run["id"]
            for run in self.session.rows(_OPEN, self._identity)
            if self._bury(run, reason)
        ]
        if dying and self._strikes() >= MAX_TRANSIENT_FAILURES:
            return self._fail_for_good(max(dying))
        params = {
            **self._identity,
            "state": self.state.value,
            "leader": f"{socket.gethostname()}:{os.getpid()}",
            "pid": os.getpid(),
            "command": command,
            "version": __version__,
        }
        self.session.rows(_INSERT_RUN, params)
        [row] = self.session.rows("SELECT last_insert_rowid() AS id")
        self.run = row["id"]
        return None

    def _bury(self, run: dict[str, Any], reason: str) -> bool:
        """Close an open run; whether its leader was another process, with this build."""
        if run["id"] in self._lost:
            outcome, error = "transient", printable(reason)
        else:
            place = f" in {run['message']}" if run["message"] else ""
            outcome, error = "abandoned", f"the leader {run['leader']} died{place}"
        self.session.rows(_BURY, {"id": run["id"], "outcome": outcome, "error": error})
        return outcome == "abandoned" and run["build"] == self._identity["build"]

    def _strikes(self) -> int:
        """The transient ends of this build in a row, up to now."""
        strikes = 0
        for run in self.session.rows(_ENDS, self._identity):
            if run["outcome"] not in TRANSIENT_OUTCOMES:
                break
            strikes += run["id"] not in self._lost
        return strikes

    def _fail_for_good(self, run: int) -> str:
        [row] = self.session.rows(
            f"SELECT error FROM {RUN_TABLE} WHERE id = :id", {"id": run}
        )
        reason = (
            f"{MAX_TRANSIENT_FAILURES} times in a row, the last time: {row['error']}"
        )
        self.session.rows(_FAIL_RUN, {"id": run, "error": reason})
        self.run = run
        return reason

    def update(self, state: State, message: str = "") -> None:
        """Say what the run is doing."""
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
    ) -> None:
        """Mark a step as started; the mark is on disk on return."""
        self.message = name
        self.loops.clear()
        params = {
            "run": self.run,
            "position": self.done + 1,
            "kind": kind,
            "name": name,
            "backwards": backwards,
            "atomic": atomic,
            "detail": None if detail is None else json.dumps(detail),
        }
        self._write((_START_STEP, params))
        self._step, self._step_is_atomic = self.done + 1, atomic

    def proof(self) -> None:
        """None: the lock is not in the database, so nothing was seen of it."""

    def finish_step(self, outcome: str) -> None:
        """Mark the running step as finished; for an atomic one, with what is written next."""
        self.loops.clear()
        self._ended = (outcome, time.monotonic())
        self.done += outcome != "failed"
        if not self._step_is_atomic:
            self._write()

    def finish_run(self, outcome: str, state: State, error: str | None = None) -> str:
        """Close the run. Returns the outcome as it was written.

        A transient outcome that is the third of this build in a row is written as "failed".
        """
        self.state = state
        with self.session.writing():
            if (
                outcome in TRANSIENT_OUTCOMES
                and self._strikes() + 1 >= MAX_TRANSIENT_FAILURES
            ):
                outcome = "failed"
            params = {"run": self.run, "outcome": outcome, "error": error}
            self._send(*self._ended_step(), self._progress(), (_CLOSE_RUN, params))
        return outcome

    def _write(self, *statements: Statement) -> None:
        """All of it, what is not in the tables yet, and the run as it is."""

        with self.session.writing():
            self._send(*self._ended_step(), *statements, self._progress())
        self._ended = None

    def _send(self, *statements: Statement) -> None:
        for statement, params in statements:
            self.session.rows(statement, params)

    def _ended_step(self) -> list[Statement]:
        if self._ended is None:
            return []
        outcome, at = self._ended
        ago = time.monotonic() - at
        params = {
            "run": self.run,
            "position": self._step,
            "outcome": outcome,
            "ago": ago,
        }
        return [(_FINISH_STEP, params)]

    def _progress(self) -> Statement:
        percent = self.loops.percent(self.done, self.total)
        params = {
            "run": self.run,
            "state": self.state.value,
            "done": self.done,
            "total": self.total,
            "progress": 100 if self.state is State.READY else percent,
            "message": self.message,
        }
        return _UPDATE_RUN, params

    def note(self) -> bytes:
        """How far the running step is, for readers: the tables cannot be written meanwhile."""
        note = ProgressRecord(
            self.run,
            self.done,
            self.loops.percent(self.done, self.total),
            self.loops.publish(),
        )
        return note.encoded()
