"""Read the activity of the leader's sessions, and the sessions that block them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from django_safe_init.backends.postgresql.lock_keys import HELD, leader_key, work_key
from django_safe_init.core.records import Activity, Blocker
from django_safe_init.core.text import printable, shorten

if TYPE_CHECKING:
    from django_safe_init.backends.postgresql.session import Session

#: One scan of the locks, so that all rows belong to one leader.
_LEADER_SESSIONS = f"""
    SELECT pid, leads, usename, application_name, host(client_addr),
           backend_start::text,
           extract(epoch FROM clock_timestamp() - backend_start)::float8, state,
           extract(epoch FROM clock_timestamp() - state_change)::float8,
           coalesce(wait_event_type = 'Lock', false),
           CASE WHEN state = 'active' THEN pg_blocking_pids(pid) ELSE '{{}}' END,
           extract(epoch FROM clock_timestamp() - query_start)::float8, query
    FROM (SELECT pid, bool_or(key = %(leader_key)s) AS leads FROM {HELD}
          WHERE key IN (%(leader_key)s, %(work_key)s) GROUP BY pid) AS holders
    JOIN pg_stat_activity USING (pid)
    ORDER BY leads DESC, backend_start, pid
"""
_BLOCKERS = """
    SELECT pid, usename, application_name, host(client_addr), state,
           extract(epoch FROM clock_timestamp() - coalesce(xact_start, query_start)), query
    FROM pg_stat_activity WHERE pid = ANY(%(pids)s) ORDER BY xact_start
"""
_BLOCKERS_OF = _BLOCKERS.replace(
    "%(pids)s", "(SELECT pg_blocking_pids(%(pid)s))::int[]"
)


class LeaderSession(NamedTuple):
    """A session of a leader. A field is None if this role may not see it."""

    pid: int
    #: True if the session holds the leader lock, False if it holds the work key.
    leads: bool
    role: str
    application: str
    #: The address of the client; None also for a client on the same host.
    client: str | None
    started: str | None
    age_seconds: float | None
    state: str | None
    #: The seconds since the session entered the state.
    state_seconds: float | None
    waits_for_lock: bool
    blocking_pids: list[int]
    query_seconds: float | None
    query: str

    @property
    def identity(self) -> tuple[int, str | None]:
        """Return a value that no other session has, not even a later one with the same pid."""
        return self.pid, self.started

    @property
    def active(self) -> bool:
        """Return True if a statement is running or waits for a lock."""
        return self.state == "active"

    def __str__(self) -> str:
        name = self.application or "no name"
        where = f", from {self.client}" if self.client else ""
        since = (
            f", for {self.age_seconds:.0f} s" if self.age_seconds is not None else ""
        )
        return printable(
            f"backend {self.pid} ({'leader lock' if self.leads else 'work key'}; "
            f"role {self.role}, {name}{where}{since}): {self._doing()}"
        )

    def _doing(self) -> str:
        if self.state is None:
            return "this role may not see what it does"
        if self.active:
            return f"running for {self.query_seconds or 0:.0f} s: {shorten(self.query)}"
        return f"{self.state} for {self.state_seconds or 0:.0f} s"


def leader_sessions(session: Session, lock_key: str | None) -> list[LeaderSession]:
    """Return the sessions of the current leader, the holder of the leader lock first."""
    keys = {"work_key": work_key(lock_key), "leader_key": leader_key(lock_key)}
    return [LeaderSession(*row) for row in session.read(_LEADER_SESSIONS, keys)]


def leader_activity(session: Session, lock_key: str | None) -> Activity:
    """Return the current leader's statement, preferably of a migrating session."""
    sessions = leader_sessions(session, lock_key)
    for each in sorted(sessions, key=lambda each: each.leads):
        if each.active:
            found = blockers(session, each.blocking_pids)
            return Activity(
                query=each.query,
                seconds=each.query_seconds or 0.0,
                pid=each.pid,
                # A session that is blocked shows its wait event a moment later.
                progressing=not (each.waits_for_lock or each.blocking_pids),
                blockers=found,
                remedy=how_to_terminate(found[0].pid) if found else "",
            )
    return Activity(None, 0.0, None, False, ())


def blockers(session: Session, pids: list[int]) -> tuple[Blocker, ...]:
    """Return the sessions with these process ids."""
    return _to_blockers(session.read(_BLOCKERS, {"pids": pids}) if pids else [])


def _to_blockers(rows: Iterable[tuple[Any, ...]]) -> tuple[Blocker, ...]:
    return tuple(
        Blocker(
            pid,
            role or "?",
            name or "",
            state or "?",
            float(seconds or 0),
            query or "",
            client,
        )
        for pid, role, name, client, state, seconds, query in rows
    )


def blockers_of(session: Session, pid: int) -> tuple[Blocker, ...]:
    """Return the sessions that block the session with the process id.

    Raises the driver's errors, and has none of the limits of `Session.read`.
    """
    return _to_blockers(session.rows(_BLOCKERS_OF, {"pid": pid}))


def how_to_terminate(pid: int) -> str:
    """Return the statement that terminates the session, for a person."""
    return f"SELECT pg_terminate_backend({pid});"
