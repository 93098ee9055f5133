"""What is true about a database, as everybody may read it: no lock, no write, no long wait.

Ready is decided by sets of names: every migration this build knows is recorded in
`django_migrations`, and no run of this same build is open or failed. Runs only narrate.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import psycopg

from django_safe_init.build import Build
from django_safe_init.connections import Session
from django_safe_init.locks import leader_key
from django_safe_init.locks.held import holders_sql
from django_safe_init.states import State
from django_safe_init.tables import RUN_TABLE

logger = logging.getLogger("django_safe_init")

#: What a query meets where a migration has locked a table.
LOCKED = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)
#: What a query meets where a table is not there, not readable, or locked by a migration.
UNREADABLE = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.InsufficientPrivilege,
    *LOCKED,
)


class RunRow(NamedTuple):
    """A row of the run table. Ages are in seconds, by the database's clock."""

    id: int
    build: str
    state: State
    outcome: str | None
    done: int
    total: int
    progress: int
    message: str
    leader: str
    backend_pid: int
    command: str
    started_at: str
    finished_at: str | None
    error: str | None
    age_seconds: float
    silence_seconds: float
    duration_seconds: float

    @property
    def open(self) -> bool:
        """Whether nobody has closed the run yet: its leader works, or died."""
        return self.outcome is None


def _state(values: dict[str, Any]) -> State:
    try:
        return State(values["state"])
    except ValueError:  # of a newer version
        return State.MIGRATING if values.get("outcome") is None else State.ERROR


def _run_row(values: dict[str, Any] | None) -> RunRow | None:
    """From a row as JSON, as any version of this package may have written it."""
    if values is None:
        return None
    return RunRow(
        id=values["id"],
        build=values["build"],
        state=_state(values),
        outcome=values.get("outcome"),
        done=values.get("done", 0),
        total=values.get("total", 0),
        progress=values.get("progress", 0),
        message=values.get("message", ""),
        leader=values.get("leader", ""),
        backend_pid=values.get("backend_pid", 0),
        command=values.get("command", ""),
        started_at=values["started_at"],
        finished_at=values.get("finished_at"),
        error=values.get("error"),
        age_seconds=float(values["age_seconds"]),
        silence_seconds=float(values["silence_seconds"]),
        duration_seconds=float(values["duration_seconds"]),
    )


class Glance(NamedTuple):
    """Who leads, and the newest run."""

    latest: RunRow | None
    leader_pid: int | None

    def at_work_for(self, build: str) -> bool:
        """Whether a leader is alive and its open run is one of this build."""
        run = self.latest
        if run is None or self.leader_pid is None:
            return False
        return run.open and run.build == build


class Reading(NamedTuple):
    """One look at a database, consistent in itself."""

    #: Migrations that this build knows and the database has not recorded, sorted.
    missing: tuple[str, ...]
    #: The newest run, of any build.
    latest: RunRow | None
    #: The newest run of this build.
    own: RunRow | None
    #: Whether a run of this build has ended ready.
    finished: bool
    #: Whether a run that is newer than `own` ended ready.
    superseded: bool
    #: The backend that holds the leader lock.
    leader_pid: int | None

    @property
    def ready(self) -> bool:
        """Whether everything this build knows is done, and no run of it is open or failed."""
        own = self.own
        if self.missing or (own is not None and own.open):
            return False
        return own is None or own.outcome != "failed" or self.superseded

    @property
    def initialized(self) -> bool:
        """Stricter: `post_migrate` and validation are known to have happened, too."""
        return self.ready and self.finished

    @property
    def state(self) -> State:
        """The leader's state, corrected by the truth."""
        if self.ready:
            return State.READY
        if self.latest is None:
            return State.CHECKING_SCHEMA if self.leader_pid else State.UNINITIALIZED
        if self.latest.open:
            return self.latest.state if self.leader_pid else State.ERROR
        if self.latest.outcome == "failed":
            return State.ERROR
        return State.CHECKING_SCHEMA if self.leader_pid else State.UNINITIALIZED


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
_MISSING_NAMES = """
    SELECT unnest(%(names)s::text[]) EXCEPT SELECT app || '.' || name FROM django_migrations
"""
_MISSING = f"ARRAY({_MISSING_NAMES})"
_ALL_MISSING = "%(names)s::text[]"
#: No look at the migrations unless the run itself says that it ended ready.
_FINISHED = f"""
    SELECT id FROM (
      SELECT id, CASE WHEN outcome = 'ready' THEN NOT EXISTS ({_MISSING_NAMES}) END AS covered
      FROM {RUN_TABLE} WHERE lock_key = %(lock_key)s AND build = %(build)s
      ORDER BY id DESC LIMIT 1) AS newest
    WHERE covered
"""
_READABLE = """
    SELECT to_regclass(%(table)s) IS NOT NULL,
           coalesce(has_table_privilege(to_regclass(%(table)s), 'SELECT'), false)
"""


class Reader:
    """Reads one database for one build over one session; cheap enough to poll."""

    def __init__(self, session: Session, build: Build, lock_key: str | None) -> None:
        self.session = session
        self.params = {
            "names": sorted(build.migrations),
            "build": build.fingerprint,
            "lock_key": lock_key or "",
            "leader_key": leader_key(lock_key),
        }
        self._seen_runs = False

    def finished_run(self) -> int | None:
        """The newest run of this build, if it ended ready and nothing is missing since.

        One cheap query; raises one of `UNREADABLE` where it cannot tell.
        """
        rows = self.session.read(_FINISHED, self.params)
        return int(rows[0][0]) if rows else None

    def read(self) -> Reading:
        """One look, without an error in the server's log for a table that is not there."""
        return self._query(
            _MISSING if self._readable("django_migrations") else _ALL_MISSING,
            _RUNS if self._runs_readable() else _NO_RUNS,
        )

    def glance(self) -> Glance:
        """What a follower polls: cheaper than `read`, and silent about the migrations."""
        latest = f"({_LATEST})" if self._runs_readable() else "NULL::jsonb"
        [(run, leader_pid)] = self.session.read(
            f"SELECT {latest}, ({holders_sql('leader_key')} LIMIT 1)", self.params
        )
        return Glance(_run_row(run), leader_pid)

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
            run for run in (_run_row(values) for (values,) in rows) if run is not None
        ]

    def _runs_readable(self) -> bool:
        self._seen_runs = self._seen_runs or self._readable(RUN_TABLE)
        return self._seen_runs

    def _query(self, missing: str, runs: str) -> Reading:
        [(names, latest, own, finished, superseded, leader_pid)] = self.session.read(
            f"SELECT {missing}, {runs}, ({holders_sql('leader_key')} LIMIT 1)",
            self.params,
        )
        return Reading(
            tuple(sorted(names)),
            _run_row(latest),
            _run_row(own),
            finished,
            superseded,
            leader_pid,
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
