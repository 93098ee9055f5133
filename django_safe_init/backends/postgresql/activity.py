"""What a leader's backends are doing just now, and what keeps them from doing it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from django_safe_init.backends.postgresql.lock_keys import HELD, leader_key, work_key
from django_safe_init.core.records import Activity, Blocker
from django_safe_init.core.text import shorten

if TYPE_CHECKING:
    from django_safe_init.backends.postgresql.session import Session

#: One scan of the locks, so that all that is found belongs to one leader.
_BACKENDS = f"""
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
    SELECT pid, usename, application_name, state,
           extract(epoch FROM clock_timestamp() - coalesce(xact_start, query_start)), query
    FROM pg_stat_activity WHERE pid = ANY(%(pids)s) ORDER BY xact_start
"""
_BLOCKERS_OF = _BLOCKERS.replace(
    "%(pids)s", "(SELECT pg_blocking_pids(%(pid)s))::int[]"
)


class LeaderSession(NamedTuple):
    """A session of a leader. What another role may not see of it is None."""

    pid: int
    #: Whether it holds the leader lock; otherwise it holds the work key.
    leads: bool
    role: str
    application: str
    #: The address of the process at its other end; None also for a socket of the same host.
    client: str | None
    started: str | None
    age_seconds: float | None
    state: str | None
    #: For how long it has been in that state.
    state_seconds: float | None
    waits_for_lock: bool
    blocking_pids: list[int]
    query_seconds: float | None
    query: str

    @property
    def identity(self) -> tuple[int, str | None]:
        """What tells it from every other backend, also from a later one with its pid."""
        return self.pid, self.started

    @property
    def active(self) -> bool:
        """Whether a statement is running, or waits for a lock."""
        return self.state == "active"

    def __str__(self) -> str:
        name = self.application or "no name"
        where = f", from {self.client}" if self.client else ""
        since = (
            f", for {self.age_seconds:.0f} s" if self.age_seconds is not None else ""
        )
        return (
            f"backend {self.pid} ({'leader lock' if self.leads else 'work key'}; "
            f"role {self.role}, {name}{where}{since}): {self._doing()}"
        )

    def _doing(self) -> str:
        if self.state is None:
            return "this role may not see what it does"
        if self.active:
            return f"running for {self.query_seconds or 0:.0f} s: {shorten(self.query)}"
        return f"{self.state} for {self.state_seconds or 0:.0f} s"


def leader_backends(session: Session, lock_key: str | None) -> list[LeaderSession]:
    """The sessions of the present leader; the one that holds the leader lock is the first."""
    keys = {"work_key": work_key(lock_key), "leader_key": leader_key(lock_key)}
    return [LeaderSession(*row) for row in session.read(_BACKENDS, keys)]


def leader_activity(session: Session, lock_key: str | None) -> Activity:
    """What the backends of the present leader are doing: the work before its record."""
    backends = leader_backends(session, lock_key)
    for backend in sorted(backends, key=lambda backend: backend.leads):
        if backend.active:
            found = blockers(session, backend.blocking_pids)
            return Activity(
                query=backend.query,
                seconds=backend.query_seconds or 0.0,
                pid=backend.pid,
                # A moment passes between the lock that is missing and the wait that is shown.
                progressing=not (backend.waits_for_lock or backend.blocking_pids),
                blockers=found,
                remedy=how_to_terminate(found[0].pid) if found else "",
            )
    return Activity(None, 0.0, None, False, ())


def blockers(session: Session, pids: list[int]) -> tuple[Blocker, ...]:
    """The sessions with these process ids, as what stands in somebody's way."""
    return _blockers(session.read(_BLOCKERS, {"pids": pids}) if pids else [])


def _blockers(rows: Iterable[tuple[Any, ...]]) -> tuple[Blocker, ...]:
    return tuple(
        Blocker(
            pid, role or "?", name or "", state or "?", float(seconds or 0), query or ""
        )
        for pid, role, name, state, seconds, query in rows
    )


def blockers_of(session: Session, pid: int) -> tuple[Blocker, ...]:
    """The sessions that the backend waits for at this moment, as any session may ask.

    Raises the driver's errors.
    """
    return _blockers(session.rows(_BLOCKERS_OF, {"pid": pid}))


def how_to_terminate(pid: int) -> str:
    """Return the statement with which a person terminates the session."""
    return f"SELECT pg_terminate_backend({pid});"
