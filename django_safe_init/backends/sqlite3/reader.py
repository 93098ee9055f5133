"""Reads the two tables and `django_migrations` on SQLite, and who holds the leader lock."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from django_safe_init.backends.sqlite3.lock_file import (
    holder,
    read_note,
    silence_seconds,
    with_note,
)
from django_safe_init.backends.sqlite3.paths import database_file, lock_file
from django_safe_init.backends.sqlite3.session import SQLiteSession
from django_safe_init.backends.sqlite3.steps import read_records
from django_safe_init.conf import HEARTBEAT_SECONDS
from django_safe_init.core.build import Build
from django_safe_init.core.columns import RUN_TABLE, STEP_TABLE
from django_safe_init.core.records import (
    Activity,
    LeaderSnapshot,
    RunDetail,
    RunRow,
    Snapshot,
    TablesUnreadable,
    run_row,
    same_apps,
    step_row,
)
from django_safe_init.core.step import missing_steps

#: A leader that missed this many signs of life is stopped, or busy beyond measure.
_BEATS = 5

_UTC = "'%Y-%m-%dT%H:%M:%f+00:00'"


def _seconds(start: str, end: str = "'now'") -> str:
    return f"(julianday({end}) - julianday({start})) * 86400.0"


#: The columns of a run of any version of this package, and what is computed from them.
_RUN = f"""
    SELECT *, strftime({_UTC}, started_at) AS started_at,
           strftime({_UTC}, finished_at) AS finished_at,
           {_seconds("started_at")} AS age_seconds,
           {_seconds("heartbeat_at")} AS silence_seconds,
           {_seconds("started_at", "coalesce(finished_at, 'now')")} AS duration_seconds
    FROM {RUN_TABLE} WHERE lock_key = :lock_key
"""
_NEWEST = f"{_RUN} ORDER BY id DESC LIMIT 1"
_NEWEST_OWN = f"{_RUN} AND build = :build ORDER BY id DESC LIMIT 1"
_READY = f"""
    SELECT max(id) AS latest, max(CASE WHEN build = :build THEN id END) AS own
    FROM {RUN_TABLE} WHERE lock_key = :lock_key AND outcome = 'ready'
"""
_STEPS = f"""
    SELECT *, {_seconds("started_at", "coalesce(finished_at, 'now')")} AS seconds
    FROM {STEP_TABLE} WHERE run_id = :run ORDER BY position DESC, id DESC LIMIT :limit
"""
#: How long steps of these names took when they were done before, the last time last.
_TIMED = f"""
    SELECT name, {_seconds("s.started_at", "s.finished_at")} AS seconds
    FROM {STEP_TABLE} s JOIN {RUN_TABLE} r ON r.id = run_id
    WHERE name IN (SELECT value FROM json_each(:wanted)) AND s.outcome = 'done'
      AND NOT backwards AND run_id <> :run AND lock_key = :lock_key ORDER BY s.id
"""


class SQLiteReader:
    """Reads one database for one build; cheap enough to poll. Creates no file.

    See `engines.base.StatusReader`.
    """

    def __init__(self, alias: str, build: Build, lock_key: str | None) -> None:
        self.session = SQLiteSession(alias)
        self.names = build.migrations
        self.steps = build.steps_of(alias)
        self.lock_key = lock_key
        self.params = {"build": build.fingerprint, "lock_key": lock_key or ""}
        self._file = database_file(alias)
        self._lock = lock_file(alias)

    def finished_run(self) -> int | None:
        """The newest run of this build, if it ended ready and nothing is missing since."""
        if not self._exists():
            raise TablesUnreadable(f"There is no file {self._file}.")
        run = self._run(_NEWEST_OWN)
        if run is None or run.outcome != "ready" or self.names - self._recorded():
            return None
        if self.steps and missing_steps(
            self.steps, read_records(self.session, self.lock_key)
        ):
            return None
        return run.id

    def read(self) -> Snapshot:
        """All that is to be known, of one moment."""
        tables = self._tables()
        if not tables:
            nothing = (*self._sorted(self.names), *missing_steps(self.steps, ()))
            return Snapshot(nothing, None, None, False, False, self.leader_pid())
        with self.session.snapshot():
            return self._read(tables)

    def _read(self, tables: set[str]) -> Snapshot:
        recorded = self._recorded() if "django_migrations" in tables else set()
        migrations = self._sorted(self.names - recorded)
        unknown = same_apps(recorded - self.names, migrations)
        leader = self.leader_pid()
        if RUN_TABLE not in tables:
            nothing = (*migrations, *missing_steps(self.steps, ()))
            return Snapshot(nothing, None, None, False, False, leader, unknown)
        records = read_records(self.session, self.lock_key) if self.steps else ()
        own = self._run(_NEWEST_OWN)
        [ready] = self.session.rows(_READY, self.params)
        return Snapshot(
            (*migrations, *missing_steps(self.steps, records)),
            self._run(_NEWEST),
            own,
            finished=ready["own"] is not None,
            superseded=own is not None and (ready["latest"] or 0) > own.id,
            leader_pid=leader,
            unknown=unknown,
        )

    def glance(self) -> LeaderSnapshot:
        """Who leads, and the newest run."""
        latest = self._run(_NEWEST) if RUN_TABLE in self._tables() else None
        return LeaderSnapshot(latest, self.leader_pid())

    def leader_pid(self) -> int | None:
        """The process that leads, also while the tables are locked."""
        return holder(self._lock)

    def history(self, count: int) -> list[RunRow]:
        """The newest runs of all builds, newest first."""
        if count < 1 or RUN_TABLE not in self._tables():
            return []
        rows = self.session.rows(
            f"{_RUN} ORDER BY id DESC LIMIT :count", {**self.params, "count": count}
        )
        return [self._row(values) for values in rows]

    def activity(self) -> Activity:
        """Whether the leader's process lives; what it does cannot be seen from outside."""
        alive = silence_seconds(self._lock) < _BEATS * HEARTBEAT_SECONDS
        return Activity(None, 0.0, None, alive and self.leader_pid() is not None, ())

    def surroundings(self, run: RunRow, steps: int | None) -> RunDetail:
        """The newest steps of the run; who waits for it, nobody can see."""
        if steps is None:
            return RunDetail()
        rows = self.session.rows(_STEPS, {"run": run.id, "limit": steps})
        return RunDetail(tuple(step_row(values) for values in reversed(rows)))

    def seconds_left(self, run: RunRow, names: Sequence[str]) -> float | None:
        """What these steps may still take; the one at work cannot be seen from outside."""
        wanted = {**self.params, "run": run.id, "wanted": json.dumps(list(names))}
        seconds = {
            row["name"]: row["seconds"] for row in self.session.rows(_TIMED, wanted)
        }
        return sum(seconds.values()) if len(seconds) == len(names) else None

    def close(self) -> None:
        """Close the connection."""
        self.session.close()

    def _exists(self) -> bool:
        return os.path.exists(self._file)

    def _tables(self) -> set[str]:
        if not self._exists():
            return set()
        rows = self.session.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {row["name"] for row in rows}

    def _recorded(self) -> set[str]:
        rows = self.session.rows(
            "SELECT app || '.' || name AS name FROM django_migrations"
        )
        return {row["name"] for row in rows}

    def _sorted(self, names: frozenset[str]) -> tuple[str, ...]:
        return tuple(sorted(names))

    def _run(self, query: str) -> RunRow | None:
        rows = self.session.rows(query, self.params)
        return self._row(rows[0]) if rows else None

    def _row(self, values: dict[str, Any]) -> RunRow:
        if values["finished_at"] is None:
            # The row cannot be written while a migration's transaction is open.
            silence = min(values["silence_seconds"], silence_seconds(self._lock))
            values = {**values, "silence_seconds": silence}
            values = with_note(values, read_note(self._lock))
        row = run_row(values)
        assert row is not None  # there are values
        return row
