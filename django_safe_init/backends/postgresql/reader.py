"""Reads the two tables and `django_migrations` on PostgreSQL, and who holds the leader lock."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from django_safe_init.backends.postgresql.lock_keys import holders_sql, leader_key
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.backends.postgresql.steps import MISSING_STEPS, missing_params
from django_safe_init.core.build import Build
from django_safe_init.core.columns import RUN_TABLE, STEP_TABLE
from django_safe_init.core.records import (
    LeaderSnapshot,
    RunDetail,
    RunRow,
    Snapshot,
    TablesUnreadable,
    run_row,
    same_apps,
    step_row,
)

if TYPE_CHECKING:
    from django_safe_init.core.records import Activity

logger = logging.getLogger("django_safe_init")

_Seen = TypeVar("_Seen")

_AGES = """
    to_jsonb(r) || jsonb_build_object(
      'age_seconds', extract(epoch FROM clock_timestamp() - r.started_at),
      'silence_seconds', extract(epoch FROM clock_timestamp() - r.heartbeat_at),
      'duration_seconds', extract(epoch FROM
        coalesce(r.finished_at, clock_timestamp()) - r.started_at))
"""
_LATEST = f"""
    SELECT {_AGES} FROM {RUN_TABLE} r WHERE lock_key = %(lock_key)s ORDER BY id DESC LIMIT 1
"""
_RUNS = f"""
    ({_LATEST}),
    (SELECT {_AGES} FROM {RUN_TABLE} r WHERE lock_key = %(lock_key)s
     AND build = %(build)s ORDER BY id DESC LIMIT 1),
    EXISTS (SELECT FROM {RUN_TABLE} WHERE lock_key = %(lock_key)s
     AND build = %(build)s AND outcome = 'ready'),
    EXISTS (SELECT FROM {RUN_TABLE} WHERE lock_key = %(lock_key)s AND outcome = 'ready'
     AND id > (SELECT max(id) FROM {RUN_TABLE}
               WHERE lock_key = %(lock_key)s AND build = %(build)s))
"""
_NO_RUNS = "NULL::jsonb, NULL::jsonb, false, false"
#: One text, because the driver quotes each element of an array by itself: hundreds of them.
_NAMES = r"string_to_array(%(names)s, E'\n')"
_MISSING_NAMES = f"""
    SELECT unnest({_NAMES}) EXCEPT SELECT app || '.' || name FROM django_migrations
"""
_MISSING = f"ARRAY({_MISSING_NAMES})"
_ALL_MISSING = _NAMES
_UNKNOWN = f"""
    ARRAY(SELECT app || '.' || name FROM django_migrations EXCEPT SELECT unnest({_NAMES}))
"""
_NONE_UNKNOWN = "'{}'::text[]"
#: No look at the migrations unless the run itself says that it ended ready.
_FINISHED = f"""
    SELECT id FROM (
      SELECT id, CASE WHEN outcome = 'ready' THEN NOT EXISTS ({_MISSING_NAMES}) END AS covered
      FROM {RUN_TABLE} WHERE lock_key = %(lock_key)s AND build = %(build)s
      ORDER BY id DESC LIMIT 1) AS newest
    WHERE covered
"""
_FINISHED_WITH_STEPS = f"{_FINISHED} AND NOT EXISTS ({MISSING_STEPS})"
_NO_STEPS = "'{}'::text[]"
_STEPS = f"""
    SELECT to_jsonb(s) || jsonb_build_object('seconds',
             extract(epoch FROM coalesce(finished_at, clock_timestamp()) - started_at))
    FROM {STEP_TABLE} s WHERE run_id = %(run)s ORDER BY position DESC, id DESC LIMIT %(limit)s
"""
_SURROUNDINGS = """
    SELECT {steps},
      (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
       AND application_name = 'safe_init waiting' AND pid <> %(leader)s),
      (SELECT usename FROM pg_stat_activity WHERE pid = %(leader)s)
"""
#: How long steps of these names took when they were done the last time before.
_TIMED = f"""
    SELECT DISTINCT ON (name) extract(epoch FROM s.finished_at - s.started_at) AS seconds
    FROM {STEP_TABLE} s JOIN {RUN_TABLE} r ON r.id = run_id
    WHERE name = ANY(%(wanted)s) AND run_id <> %(run)s AND lock_key = %(lock_key)s
      AND to_jsonb(s) @> '{{"outcome": "done", "backwards": false}}'
    ORDER BY name, s.id DESC
"""
_LEFT = f"""
    SELECT count(*), sum(seconds),
      (SELECT extract(epoch FROM clock_timestamp() - started_at) FROM {STEP_TABLE}
       WHERE run_id = %(run)s AND finished_at IS NULL ORDER BY id DESC LIMIT 1)
    FROM ({_TIMED}) AS timed
"""
_READABLE = """
    SELECT to_regclass(%(table)s) IS NOT NULL,
           coalesce(has_table_privilege(to_regclass(%(table)s), 'SELECT'), false)
"""


class PostgresReader:
    """Reads one database for one build over one session; cheap enough to poll."""

    def __init__(self, session: Session, build: Build, lock_key: str | None) -> None:
        self.session = session
        self.lock_key = lock_key
        self.params: dict[str, Any] = {
            "names": "\n".join(sorted(build.migrations)),
            "build": build.fingerprint,
            "lock_key": lock_key or "",
            "leader_key": leader_key(lock_key),
        }
        self._steps = build.steps_of(session.alias)
        self.params.update(missing_params(self._steps))
        self._seen_runs = False

    def finished_run(self) -> int | None:
        """The newest run of this build, if it ended ready and nothing is missing since.

        One cheap query; raises `TablesUnreadable` or `TablesLocked` where it cannot tell.
        """
        query = _FINISHED if not self._steps else _FINISHED_WITH_STEPS
        rows = self.session.read(query, self.params)
        return int(rows[0][0]) if rows else None

    def read(self) -> Snapshot:
        """One look, without an error in the server's log for a table that is not there."""
        return self._looking(self._read)

    def _read(self) -> Snapshot:
        recorded = self._readable("django_migrations")
        return self._query(
            f"{_MISSING}, {_UNKNOWN}"
            if recorded
            else f"{_ALL_MISSING}, {_NONE_UNKNOWN}",
            _RUNS if self._runs_readable() else _NO_RUNS,
            self._missing_steps(),
        )

    def _missing_steps(self) -> str:
        """The SQL for them: all where nobody has kept a record, none where it is kept from us."""
        if not self._steps:
            return _NO_STEPS
        [(exists, readable)] = self.session.read(_READABLE, {"table": STEP_TABLE})
        if exists and readable and self._runs_readable():
            return f"ARRAY({MISSING_STEPS})"
        return _NO_STEPS if exists else "%(labels)s::text[]"

    def glance(self) -> LeaderSnapshot:
        """What a follower polls: cheaper than `read`, and silent about the migrations."""
        return self._looking(self._glance)

    def _glance(self) -> LeaderSnapshot:
        latest = f"({_LATEST})" if self._runs_readable() else "NULL::jsonb"
        [(run, leader_pid)] = self.session.read(
            f"SELECT {latest}, ({holders_sql('leader_key')} LIMIT 1)", self.params
        )
        return LeaderSnapshot(run_row(run), leader_pid)

    def leader_pid(self) -> int | None:
        """The backend that holds the leader lock; works while our tables are locked."""
        [(pid,)] = self.session.read(
            f"SELECT ({holders_sql('leader_key')} LIMIT 1)", self.params
        )
        return None if pid is None else int(pid)

    def history(self, count: int) -> list[RunRow]:
        """The newest runs of all builds, newest first."""
        if count < 1 or not self._runs_readable():
            return []
        rows = self.session.read(
            f"SELECT {_AGES} FROM {RUN_TABLE} r WHERE lock_key = %(lock_key)s"
            " ORDER BY id DESC LIMIT %(count)s",
            {**self.params, "count": count},
        )
        return [
            run for run in (run_row(values) for (values,) in rows) if run is not None
        ]

    def activity(self) -> Activity:
        """What the leader's sessions do just now."""
        # Here, because the start of a replica with nothing to do should not pay for it.
        from django_safe_init.backends.postgresql.activity import leader_activity

        return leader_activity(self.session, self.lock_key)

    def surroundings(self, run: RunRow, steps: int | None) -> RunDetail:
        """The newest steps of the run, at most so many (None: do not look), and who waits."""
        wanted = f"ARRAY({_STEPS})" if steps is not None else "'{}'::jsonb[]"
        [(rows, followers, role)] = self.session.read(
            _SURROUNDINGS.format(steps=wanted),
            {"run": run.id, "leader": run.backend_pid, "limit": steps},
        )
        return RunDetail(
            tuple(step_row(values) for values in reversed(rows)), role, followers
        )

    def seconds_left(self, run: RunRow, names: Sequence[str]) -> float | None:
        """What these steps of the run may still take; None unless all were timed before."""
        [(timed, seconds, elapsed)] = self.session.read(
            _LEFT, {**self.params, "run": run.id, "wanted": list(names)}
        )
        if timed < len(names):
            return None
        return max(0.0, float(seconds or 0) - float(elapsed or 0))

    def close(self) -> None:
        """End the session."""
        self.session.close()

    def _looking(self, look: Callable[[], _Seen]) -> _Seen:
        """A look; once more if a table has gone that was there: dropped, restored over, or lost
        by a server that crashed, since what we write is committed asynchronously."""
        try:
            return look()
        except TablesUnreadable:
            self._seen_runs = False
            return look()

    def _runs_readable(self) -> bool:
        self._seen_runs = self._seen_runs or self._readable(RUN_TABLE)
        return self._seen_runs

    def _query(self, migrations: str, runs: str, steps: str) -> Snapshot:
        [(missing, unknown, latest, own, finished, superseded, leader_pid, undone)] = (
            self.session.read(
                f"SELECT {migrations}, {runs}, ({holders_sql('leader_key')} LIMIT 1), {steps}",
                self.params,
            )
        )
        return Snapshot(
            (*sorted(missing), *undone),
            run_row(latest),
            run_row(own),
            finished,
            superseded,
            leader_pid,
            same_apps(unknown, missing),
        )

    def _readable(self, table: str) -> bool:
        [(exists, readable)] = self.session.read(_READABLE, {"table": table})
        if exists and not readable:
            _log_grant_once(self.session, table)
        return bool(readable)


_named_grants: set[str] = set()


def _log_grant_once(session: Session, table: str) -> None:
    if table not in _named_grants:
        _named_grants.add(table)
        [(role,)] = session.read("SELECT quote_ident(current_user)")
        logger.warning(
            "This role may not read %s, so nothing is known of it. "
            "As its owner: GRANT SELECT ON %s TO %s;",
            table,
            table,
            role,
        )
