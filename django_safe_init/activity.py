"""What a leader's backends are doing just now, and what keeps them from doing it."""

from __future__ import annotations

from dataclasses import dataclass

from django_safe_init.connections import Session
from django_safe_init.locks import leader_key, work_key
from django_safe_init.locks.held import holders_sql

_BACKENDS = f"""
    SELECT pid, usename, state, wait_event_type = 'Lock', pg_blocking_pids(pid),
           extract(epoch FROM clock_timestamp() - query_start), query
    FROM pg_stat_activity
    WHERE pid IN ({holders_sql("work_key")}) OR pid IN ({holders_sql("leader_key")})
"""
_BLOCKERS = """
    SELECT pid, usename, application_name, state,
           extract(epoch FROM clock_timestamp() - coalesce(xact_start, query_start)), query
    FROM pg_stat_activity WHERE pid = ANY(%(pids)s) ORDER BY xact_start
"""


@dataclass(frozen=True)
class Blocker:
    """A session that a leader's statement waits for."""

    pid: int
    role: str
    application: str
    state: str
    seconds: float
    query: str

    def __str__(self) -> str:
        return (
            f"pid {self.pid} (role {self.role}, {self.application or 'no name'}, {self.state} "
            f"for {self.seconds:.0f} s: {_short(self.query)})"
        )


@dataclass(frozen=True)
class Activity:
    """What can be seen of a leader at one moment; another role sees less."""

    #: The statement that runs, how long it has run in seconds, and the backend it runs in.
    query: str | None
    seconds: float
    pid: int | None
    #: Whether a statement is running and not waiting for a lock.
    progressing: bool
    blockers: tuple[Blocker, ...]

    def __str__(self) -> str:
        if self.query is None:
            return ""
        text = f"running for {self.seconds:.0f} s: {_short(self.query)}"
        if self.blockers:
            text += "; blocked by " + ", ".join(
                str(blocker) for blocker in self.blockers
            )
        return text


def leader_activity(session: Session, lock_key: str | None) -> Activity:
    """What the backends of the present leader are doing."""
    keys = {"work_key": work_key(lock_key), "leader_key": leader_key(lock_key)}
    running = [row for row in session.read(_BACKENDS, keys) if row[2] == "active"]
    for pid, _, _, waiting, blocking, seconds, query in running:
        return Activity(
            query=query,
            seconds=float(seconds),
            pid=pid,
            # A moment passes between the lock that is missing and the wait that is shown.
            progressing=not (waiting or blocking),
            blockers=_blockers(session, blocking),
        )
    return Activity(None, 0.0, None, False, ())


def _blockers(session: Session, pids: list[int]) -> tuple[Blocker, ...]:
    rows = session.read(_BLOCKERS, {"pids": pids}) if pids else []
    return tuple(
        Blocker(
            pid, role or "?", name or "", state or "?", float(seconds or 0), query or ""
        )
        for pid, role, name, state, seconds, query in rows
    )


def _short(query: str) -> str:
    text = " ".join(query.split())
    return text if len(text) <= 100 else text[:97] + "..."
