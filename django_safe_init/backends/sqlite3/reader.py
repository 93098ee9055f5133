"""Read the status tables, `django_migrations` and the leader lock on SQLite."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import connections

from django_safe_init.backends.base.reader import TableReader
from django_safe_init.backends.sqlite3.lock_file import (
    holder_pid,
    read_progress,
    silence_seconds,
    with_progress,
)
from django_safe_init.backends.sqlite3.paths import database_file, lock_file
from django_safe_init.backends.sqlite3.session import SQLiteSession
from django_safe_init.conf import HEARTBEAT_SECONDS
from django_safe_init.core.build import Build
from django_safe_init.core.databases import quoted_migration_table
from django_safe_init.core.records import (
    OPERATION_TABLE,
    RUN_TABLE,
    STEP_TABLE,
    Activity,
    LeaderSnapshot,
    RunDetail,
    RunRow,
    Snapshot,
    TablesUnreadable,
    clean_value,
    leader_name,
    run_row,
    same_apps,
    step_row,
)
from django_safe_init.core.step import missing_steps

#: A leader that missed this many heartbeats is stopped or overloaded.
_MISSED_HEARTBEATS = 5

_UTC = "'%Y-%m-%dT%H:%M:%f+00:00'"


def _seconds(start: str, end: str = "'now'") -> str:
    return f"(julianday({end}) - julianday({start})) * 86400.0"


#: All columns, because another version of this package may have added some, and computed ones.
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
#: A step without an end lasts until its run ended.
_STEP_END = f"""
    coalesce(finished_at, (SELECT finished_at FROM {RUN_TABLE} WHERE id = run_id), 'now')
"""
_NEWEST_ENDED = f"{_RUN} AND outcome IS NOT NULL ORDER BY id DESC LIMIT 1"
_STEPS = f"""
    SELECT *, {_seconds("started_at", _STEP_END)} AS seconds
    FROM {STEP_TABLE} WHERE run_id = :run ORDER BY position DESC, id DESC LIMIT :limit
"""
#: The seconds that earlier runs took for steps of these names, oldest first.
_TIMED = f"""
    SELECT name, {_seconds("s.started_at", "s.finished_at")} AS seconds
    FROM {STEP_TABLE} s JOIN {RUN_TABLE} r ON r.id = run_id
    WHERE name IN (SELECT value FROM json_each(:wanted)) AND s.outcome = 'done'
      AND NOT backwards AND run_id <> :run AND lock_key = :lock_key ORDER BY s.id
"""


class SQLiteReader(TableReader):
    """A reader of one database for one build, which creates no file."""

    def __init__(self, alias: str, build: Build, lock_key: str | None) -> None:
        super().__init__(alias, build, lock_key)
        self.session = SQLiteSession(alias)
        self.params = {"build": self.build, "lock_key": self.lock_key}
        self._migrations = quoted_migration_table(connections[alias])
        self._file = database_file(alias)
        self._lock = lock_file(alias)

    def finished_run(self, release: str | None = None) -> int | None:
        if not self._exists():
            raise TablesUnreadable(f"There is no file {self._file}.")
        run = self._run(_NEWEST_OWN)
        if run is None or run.outcome != "ready":
            return None
        if self.definition.migrations - self._recorded():
            return None
        if release is not None and not release == run.release == self._release():
            return None
        return None if self._missing_steps() else run.id

    def _release(self) -> str | None:
        """Return the release of the newest run, of any build, that ended."""
        run = self._run(_NEWEST_ENDED)
        return run.release if run else None

    def _missing_steps(self) -> tuple[str, ...]:
        completed = self.completed_steps() if self.steps else ()
        return missing_steps(self.steps, completed)

    def read(self) -> Snapshot:
        tables = self._tables()
        if not tables:
            pending = self.definition.pending(())
            nothing = (*pending, *missing_steps(self.steps, ()))
            return Snapshot(nothing, None, None, False, False, self.leader_pid())
        with self.session.snapshot():
            return self._read(tables)

    def _read(self, tables: set[str]) -> Snapshot:
        has_migrations = self._migrations.strip('"').lower() in tables
        recorded = self._recorded() if has_migrations else set()
        migrations = self.definition.pending(recorded)
        unknown = same_apps(recorded - self.definition.known, migrations)
        leader = self.leader_pid()
        if RUN_TABLE not in tables:
            nothing = (*migrations, *missing_steps(self.steps, ()))
            return Snapshot(nothing, None, None, False, False, leader, unknown)
        own = self._run(_NEWEST_OWN)
        [ready] = self.session.rows(_READY, self.params)
        return Snapshot(
            (*migrations, *self._missing_steps()),
            self._run(_NEWEST),
            own,
            finished=ready["own"] is not None,
            superseded=own is not None and (ready["latest"] or 0) > own.id,
            leader_pid=leader,
            unknown=unknown,
            release=self._release(),
        )

    def peek(self) -> LeaderSnapshot:
        latest = self._run(_NEWEST) if RUN_TABLE in self._tables() else None
        return LeaderSnapshot(latest, self.leader_pid())

    def leader_pid(self) -> int | None:
        return holder_pid(self._lock)

    def leader_session(self) -> str:
        pid = self.leader_pid()
        return f"the leader {leader_name(pid)}" if pid else ""

    def history(self, count: int) -> list[RunRow]:
        if count < 1 or RUN_TABLE not in self._tables():
            return []
        rows = self.session.rows(
            f"{_RUN} ORDER BY id DESC LIMIT :count", {**self.params, "count": count}
        )
        return [self._row(values) for values in rows]

    def find_run(self, number: int) -> RunRow | None:
        if RUN_TABLE not in self._tables():
            return None
        rows = self.session.rows(
            f"{_RUN} AND id = :number", {**self.params, "number": number}
        )
        return self._row(rows[0]) if rows else None

    def traceback(self, run: RunRow) -> str | None:
        # All columns, because a table that an older version created lacks this one.
        rows = self.session.rows(
            f"SELECT * FROM {RUN_TABLE} WHERE id = :run", {"run": run.id}
        )
        return rows[0].get("traceback") if rows else None

    def activity(self) -> Activity:
        """Return an activity without a statement, which SQLite does not show.

        A leader with a heartbeat counts as making progress.
        """
        alive = silence_seconds(self._lock) < _MISSED_HEARTBEATS * HEARTBEAT_SECONDS
        return Activity(None, 0.0, None, alive and self.leader_pid() is not None, ())

    def run_detail(self, run: RunRow, steps: int | None) -> RunDetail:
        """Return the newest steps of the run, without its followers, which SQLite does not show."""
        if steps is None:
            return RunDetail()
        rows = self.session.rows(_STEPS, {"run": run.id, "limit": steps})
        return RunDetail(tuple(step_row(values) for values in reversed(rows)))

    def seconds_left(self, run: RunRow, names: Sequence[str]) -> float | None:
        """Return the seconds that the steps took before, also for the running step."""
        wanted = {**self.params, "run": run.id, "wanted": json.dumps(list(names))}
        seconds = {
            row["name"]: row["seconds"] for row in self.session.rows(_TIMED, wanted)
        }
        return sum(seconds.values()) if len(seconds) == len(names) else None

    def close(self) -> None:
        self.session.close()

    def _rows(self, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return self.session.tuples(statement, params)

    def _has_journal(self) -> bool:
        return OPERATION_TABLE in self._tables()

    def _exists(self) -> bool:
        return os.path.exists(self._file)

    def _tables(self) -> set[str]:
        if not self._exists():
            return set()
        rows = self.session.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {row["name"].lower() for row in rows}

    def _recorded(self) -> set[str]:
        rows = self.session.rows(
            f"SELECT app || '.' || name AS name FROM {self._migrations}"
        )
        return {row["name"] for row in rows}

    def _run(self, query: str) -> RunRow | None:
        rows = self.session.rows(query, self.params)
        return self._row(rows[0]) if rows else None

    def _row(self, values: dict[str, Any]) -> RunRow:
        cleaned = {
            name: clean_value(name, values[name])
            for name in ("progress", "silence_seconds")
        }
        values = {**values, **cleaned}
        if values["finished_at"] is None:
            # While a migration's transaction is open, only the lock file can be written.
            silence = min(values["silence_seconds"], silence_seconds(self._lock))
            values = {**values, "silence_seconds": silence}
            values = with_progress(values, read_progress(self._lock))
        row = run_row(values)
        assert row is not None  # `values` is not None
        return row
