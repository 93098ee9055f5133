"""Read the activity of the leader's sessions, and the sessions that block them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from django_safe_init.backends.postgresql.lock_keys import HELD, leader_key, work_key
from django_safe_init.backends.postgresql.remedies import (
    PREPARED,
    how_to_terminate,
    literal,
)
from django_safe_init.core.records import PREPARED_PID, Activity, Blocker
from django_safe_init.core.text import printable, shorten

if TYPE_CHECKING:
    from django_safe_init.backends.postgresql.lock_holders import Query
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
#: The prepared transactions that hold a lock on the object for which a session waits.
#: `pg_blocking_pids` has 0 for each of them.
_PREPARED_BLOCKERS = f"""
    SELECT gid, owner, extract(epoch FROM clock_timestamp() - prepared)
    FROM ({PREPARED}) AS prepared WHERE virtualtransaction IN (
      SELECT held.virtualtransaction FROM pg_locks AS held JOIN pg_locks AS wanted
      ON (held.locktype, held.database, held.relation, held.page, held.tuple,
          held.transactionid, held.classid, held.objid, held.objsubid)
      IS NOT DISTINCT FROM
         (wanted.locktype, wanted.database, wanted.relation, wanted.page, wanted.tuple,
          wanted.transactionid, wanted.classid, wanted.objid, wanted.objsubid)
      WHERE held.pid IS NULL AND held.granted
      AND wanted.pid = ANY(%(pids)s) AND NOT wanted.granted)
    ORDER BY prepared
"""
_PREPARE = "PREPARE TRANSACTION"


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
            found = blockers(session, [each])
            return Activity(
                query=each.query,
                seconds=each.query_seconds or 0.0,
                pid=each.pid,
                # A session that is blocked shows its wait event a moment later.
                progressing=not (each.waits_for_lock or each.blocking_pids),
                blockers=found,
                remedy=how_to_end(found[0]) if found else "",
            )
    return Activity(None, 0.0, None, False, ())


def blockers(
    session: Session, sessions: Iterable[LeaderSession]
) -> tuple[Blocker, ...]:
    """Return the sessions and prepared transactions that block these sessions."""
    blocking = {each.pid: each.blocking_pids for each in sessions}
    return _blockers(session.read, blocking)


def _blockers(query: Query, blocking: dict[int, list[int]]) -> tuple[Blocker, ...]:
    """Return the blockers of the keys of `blocking`, whose values are their process ids."""
    pids = sorted({pid for each in blocking.values() for pid in each if pid})
    found = _to_blockers(query(_BLOCKERS, {"pids": pids}) if pids else [])
    behind_prepared = [pid for pid, each in blocking.items() if 0 in each]
    if not behind_prepared:
        return found
    rows = query(_PREPARED_BLOCKERS, {"pids": behind_prepared})
    return found + tuple(
        Blocker(
            PREPARED_PID,
            role,
            "",
            "prepared",
            float(seconds),
            f"{_PREPARE} {literal(gid)}",
        )
        for gid, role, seconds in rows
    )


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
    """Return the sessions and prepared transactions that block the session.

    Raises the driver's errors, and has none of the limits of `Session.read`.
    """
    [(pids,)] = session.rows("SELECT pg_blocking_pids(%(pid)s)", {"pid": pid})
    return _blockers(session.rows, {pid: pids}) if pids else ()


def how_to_end(blocker: Blocker) -> str:
    """Return the statement that ends the blocker, for a person."""
    if blocker.pid == PREPARED_PID:
        return f"ROLLBACK PREPARED{blocker.query.removeprefix(_PREPARE)};"
    return how_to_terminate(blocker.pid)
