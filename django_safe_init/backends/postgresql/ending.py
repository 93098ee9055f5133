"""Ending backends of the server, whoever they work for."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from django_safe_init.backends.postgresql.activity import LeaderSession
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline

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
