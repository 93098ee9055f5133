"""Find the sessions of the present leader on PostgreSQL, and terminate them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.holder import LockHolder, describe, open_run
from django_safe_init.backends.postgresql.activity import (
    LeaderSession,
    blockers,
    leader_backends,
)
from django_safe_init.backends.postgresql.connect import connect, create_direct_wrapper
from django_safe_init.backends.postgresql.reader import PostgresReader
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import Blocker, ConnectionEnded, RunRow
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import DatabaseUnreachable


@dataclass(frozen=True)
class PostgresLockHolder(LockHolder):
    """The leader's sessions at one moment."""

    #: Its open run; None before there is one, or while the status tables are locked.
    run: RunRow | None
    #: The session that holds the leader lock first, then the ones that hold the work key.
    backends: tuple[LeaderSession, ...]
    #: The sessions that block its statements.
    blockers: tuple[Blocker, ...]
    #: The session on which they were read, and are terminated.
    session: Session

    question = "End these sessions?"

    def lines(self) -> list[str]:
        return [
            describe(self.run),
            *(f"  {backend}" for backend in self.backends),
            *(
                f"  blocked by {blocker}. To end only that: "
                f"SELECT pg_terminate_backend({blocker.pid});"
                for blocker in self.blockers
            ),
        ]

    def end(self, seconds: float) -> str | None:
        return terminate_sessions(self.session, self.backends, seconds)


@contextmanager
def open_holder(context: Context) -> Iterator[PostgresLockHolder | None]:
    """Yield the present leader, or None, on a session to the leader's own server."""
    settings, alias = context.settings, context.alias
    wrapper = create_direct_wrapper(alias, context.direct)
    deadline = Deadline(settings.connect_timeout)
    try:
        with connect(
            wrapper, settings, deadline, "safe_init unlock", context.report
        ) as session:
            # A person's answer may take longer than the role's time-outs.
            session.apply_session_settings()
            yield find_holder(session, context)
    except (ConnectionEnded, psycopg.OperationalError) as exc:
        raise DatabaseUnreachable(
            f"The connection to {alias!r} ended: {one_line(exc)}"
        ) from exc


def find_holder(session: Session, context: Context) -> PostgresLockHolder | None:
    """Return the present leader, or None."""
    lock_key = context.settings.lock_key
    backends = leader_backends(session, lock_key)
    if not backends or not backends[0].leads:
        return None
    waited_for = [pid for backend in backends for pid in backend.blocking_pids]
    run = open_run(PostgresReader(session, context.build, lock_key))
    return PostgresLockHolder(
        run if run is not None and run.backend_pid == backends[0].pid else None,
        tuple(backends),
        blockers(session, waited_for),
        session,
    )


#: The right to end a backend belongs to the role that logged in, not to `assume_role`; for this
#: transaction only, so that nothing is left behind in a pooler.
_TERMINATE = """
    SET LOCAL ROLE NONE;
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid = %(pid)s AND coalesce(backend_start::text = %(started)s, true)
"""


def terminate(session: Session, pid: int, started: str | None = None) -> bool:
    """End a backend, unless it is gone already. False where this role may not.

    `started` tells it from a later one with the same process id.
    """
    try:
        session.rows(_TERMINATE, {"pid": pid, "started": started})
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def refusal(pid: int, role: str) -> str:
    """That a backend may not be ended, and who can end it how."""
    return (
        f"Backend {pid} of the role {role} may not be ended by this role; "
        f"an administrator can: SELECT pg_terminate_backend({pid});"
    )


def terminate_sessions(
    session: Session, backends: Sequence[LeaderSession], seconds: float
) -> str | None:
    """End these backends, and no later ones; returns why some are left, or None.

    In their order, so that a leader is without its lock before it is without its work.
    """
    for backend in backends:
        if not terminate(session, backend.pid, backend.started):
            return refusal(backend.pid, backend.role)
    deadline = Deadline(seconds)
    while left := _left(session, backends):
        if deadline.passed():
            pids = ", ".join(str(pid) for pid in left)
            return f"Told to end, and not ended within {seconds:g} s: backend {pids}."
        sleep(0.02)
    return None


def _left(session: Session, backends: Sequence[LeaderSession]) -> list[int]:
    rows = session.read(
        "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = ANY(%(pids)s)",
        {"pids": [backend.pid for backend in backends]},
    )
    ours = {backend.identity for backend in backends}
    return [pid for pid, started in rows if (pid, started) in ours]
