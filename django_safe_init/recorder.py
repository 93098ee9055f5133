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

from django_safe_init.build import Build
from django_safe_init.connections import Session, printable, session_error
from django_safe_init.exceptions import SafeInitError
from django_safe_init.states import State
from django_safe_init.tables import missing_privilege
from django_safe_init.version import __version__

logger = logging.getLogger("django_safe_init")
T = TypeVar("T")

#: How a run can end.
OUTCOMES = ("ready", "partial", "failed", "interrupted", "transient", "abandoned")
#: Ends after which somebody else tries; the third in a row of one build is a failure.
TRANSIENT_OUTCOMES = ("interrupted", "transient", "abandoned")
STRIKES = 3

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

_CLOSE_RUN = f"""
    WITH strikes AS (SELECT ({_PRIOR_STRIKES}) + 1 AS n)
    UPDATE django_safe_init_run
    SET state = %(state)s, done = %(done)s, total = %(total)s, progress = %(progress)s,
        message = %(message)s, finished_at = clock_timestamp(),
        heartbeat_at = clock_timestamp(), error = %(error)s,
        outcome = CASE WHEN n >= %(strikes)s AND %(outcome)s = ANY(%(transient)s)
                  THEN 'failed' ELSE %(outcome)s END
    FROM strikes WHERE id = %(run)s RETURNING outcome
"""

_UPDATE_RUN = """
    UPDATE django_safe_init_run
    SET state = %(state)s, done = %(done)s, total = %(total)s, progress = %(progress)s,
        message = %(message)s, heartbeat_at = clock_timestamp()
    WHERE id = %(run)s;
    SELECT set_config('application_name', %(application_name)s, false)
"""

_INSERT_STEP = """
    INSERT INTO django_safe_init_step
      (run_id, position, kind, name, backwards, atomic, started_at, detail)
    VALUES (%(run)s, %(position{i})s, 'migration', %(name{i})s, %(backwards{i})s,
            %(atomic{i})s, clock_timestamp() - make_interval(secs => %(age{i})s),
            %(detail{i})s::jsonb);
"""

_FINISH_STEP = """
    UPDATE django_safe_init_step
    SET finished_at = clock_timestamp(), outcome = %(outcome{i})s
    WHERE run_id = %(run)s AND position = %(position{i})s;
"""


@dataclass
class _Step:
    """A step that is not yet in the table as it should be."""

    position: int
    name: str
    backwards: bool
    atomic: bool
    detail: Any = None
    outcome: str | None = None
    started: float = field(default_factory=time.monotonic)
    inserted: bool = False

    def sql(self, i: int) -> str:
        insert = "" if self.inserted else _INSERT_STEP
        return (insert + (_FINISH_STEP if self.outcome else "")).replace("{i}", str(i))

    def params(self, i: int) -> dict[str, Any]:
        return {
            f"position{i}": self.position,
            f"name{i}": self.name,
            f"backwards{i}": self.backwards,
            f"atomic{i}": self.atomic,
            f"age{i}": time.monotonic() - self.started,
            f"detail{i}": None if self.detail is None else json.dumps(self.detail),
            f"outcome{i}": self.outcome,
        }


@dataclass
class Lost:
    """The runs that this process has led and lost, and why it lost the last one."""

    runs: list[int] = field(default_factory=list)
    reason: str = ""


class Recorder:
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
        self._identity: dict[str, Any] = {
            "lock_key": lock_key or "",
            "build": build.fingerprint,
            "transient": list(TRANSIENT_OUTCOMES),
            "strikes": STRIKES,
            "lost": [],
        }
        self._dirty: list[_Step] = []
        self._guard = threading.RLock()

    def open_run(self, command: str, lost: Lost | None = None) -> str | None:
        """Close what a dead leader left open and open a run, in one statement.

        Runs that this process has lost are no strikes: it lives, and `RESTARTS` limits it.
        If that was the third transient end of this build in a row, no run is opened: the dead
        one is marked as failed, so that all who wait stop, and its reason is returned.
        """
        self.session.rows(
            f"SELECT set_config('lock_timeout', '{_LOCK_TIMEOUT}', false),"
            " set_config('synchronous_commit', 'off', false)"
        )
        lost = lost or Lost()
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
        return None

    def _fail_for_good(self, run: int) -> str:
        params = {"run": run, "prefix": f"{STRIKES} times in a row, the last time: "}
        [(reason,)] = self._insist(lambda: self.session.rows(_FAIL_RUN, params))
        self.run = run
        return str(reason)

    def update(self, state: State, message: str = "") -> None:
        """Say what the run is doing."""
        with self._guard:
            self.state = state
            self.message = message
            self._try_to_write()

    def heartbeat(self) -> None:
        """Say that the leader is alive."""
        with self._guard:
            self._try_to_write()

    def start_step(
        self, name: str, *, backwards: bool, atomic: bool, detail: Any = None
    ) -> None:
        """Mark a step as started; the mark of a non-atomic one is on disk on return."""
        with self._guard:
            self.message = name
            self._dirty.append(_Step(self.done + 1, name, backwards, atomic, detail))
            if atomic:
                self._try_to_write()
            else:
                self._insist(lambda: self._write("SET LOCAL synchronous_commit = on; "))

    def finish_step(self, outcome: str) -> None:
        """Mark the running step as finished."""
        with self._guard:
            if not self._dirty:
                self._dirty.append(self._running)
            self._dirty[-1].outcome = outcome
            self.done += outcome != "failed"
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
        progress = 100 if self.state is State.READY else self._percent()
        return {
            "run": self.run,
            "state": self.state.value,
            "done": self.done,
            "total": self.total,
            "progress": progress,
            "message": self.message,
            "application_name": self._application_name(),
        }

    def _percent(self) -> int:
        return min(99, self.done * 100 // self.total) if self.total else 0

    def _application_name(self) -> str:
        """Visible to every role in pg_stat_activity, in 63 bytes."""
        step = f" {self.done + 1}/{self.total} {self.message}" if self.message else ""
        return f"safe_init {self.state.value if not step else step.strip()}"[:63]

    def _write(self, prefix: str = "") -> None:
        """All that is not in the tables yet, in one message and one transaction."""
        params = self._present()
        for i, step in enumerate(self._dirty):
            params.update(step.params(i))
        steps = "".join(step.sql(i) for i, step in enumerate(self._dirty))
        self.session.rows(prefix + steps + _UPDATE_RUN, params)
        for step in self._dirty:
            step.inserted = True
            self._running = step
        self._dirty.clear()

    def _try_to_write(self) -> None:
        try:
            self._write()
        except psycopg.errors.LockNotAvailable:
            logger.debug(
                "The status tables are locked: a write of progress was dropped."
            )
        except psycopg.Error as exc:
            raise session_error(exc) from exc

    def _insist(self, write: Callable[[], T]) -> T:
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return write()
            except psycopg.errors.LockNotAvailable:
                if time.monotonic() > end:
                    raise
            except psycopg.DataError:
                raise
            except psycopg.errors.InsufficientPrivilege as exc:
                raise missing_privilege(self.session, exc) from exc
            except psycopg.Error as exc:
                raise session_error(exc) from exc


class Heartbeat:
    """Writes the leader's sign of life while it works."""

    def __init__(self, recorder: Recorder, seconds: float = 2.0) -> None:
        self.recorder = recorder
        self.seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._beat, name="safe_init heartbeat", daemon=True
        )

    def _beat(self) -> None:
        while not self._stop.wait(self.seconds):
            try:
                self.recorder.heartbeat()
            except SafeInitError:
                return  # the leading thread finds out at its next boundary

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
