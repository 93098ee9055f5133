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
    how_to_end,
    leader_sessions,
)
from django_safe_init.backends.postgresql.answer_limit import ANSWER_SECONDS
from django_safe_init.backends.postgresql.connect import connect, create_direct_wrapper
from django_safe_init.backends.postgresql.lock_holders import Holder, prepared_holders
from django_safe_init.backends.postgresql.lock_keys import leader_key, work_key
from django_safe_init.backends.postgresql.reader import PostgresReader
from django_safe_init.backends.postgresql.remedies import how_to_terminate
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import Blocker, ConnectionEnded, RunRow, leader_of
from django_safe_init.core.text import (
    first_of,
    name_some,
    one_line,
    printable,
    with_commands,
)
from django_safe_init.exceptions import DatabaseUnreachable


@dataclass(frozen=True)
class PostgresLockHolder(LockHolder):
    """The sessions of the leader, as one query found them."""

    #: The open run; None before the leader opens it, or while the status tables are locked.
    run: RunRow | None
    #: First the holder of the leader lock, then the holders of the work key.
    sessions: tuple[LeaderSession, ...]
    #: The sessions that block the leader's statements.
    blockers: tuple[Blocker, ...]
    #: The session that reads and terminates the leader's sessions.
    session: Session

    #: The prepared transactions that hold the leader lock or the work key.
    prepared: tuple[Holder, ...] = ()

    question = "End these sessions?"

    @property
    def refusal(self) -> str | None:
        if not self.prepared:
            return None
        return with_commands(
            "Nothing was ended: a prepared transaction outlives its session. As its owner or a "
            "superuser, in its database:",
            [each.remedy for each in self.prepared],
        )

    def lines(self) -> list[str]:
        shown, more = first_of(self.blockers)
        return [
            self._describe_leader(),
            *(f"  locked by {each.with_remedy}" for each in self.prepared),
            *(f"  {each}" for each in self.sessions),
            *(
                f"  blocked by {blocker}. To end only that: {how_to_end(blocker)}"
                for blocker in shown
            ),
            *([f"  blocked by {more} more sessions"] if more else []),
        ]

    def _describe_leader(self) -> str:
        if not self.sessions:
            return "no leader with a session"
        return describe(self.run, leader_of(self.sessions[0].application or ""))

    def end(self, seconds: float) -> str | None:
        return terminate_sessions(self.session, self.sessions, seconds)


@contextmanager
def open_holder(context: Context) -> Iterator[PostgresLockHolder | None]:
    """Yield the current leader, or None, on a session to the leader's own server."""
    settings, alias = context.settings, context.alias
    wrapper = create_direct_wrapper(alias, context.direct)
    deadline = Deadline(settings.connect_timeout)
    try:
        with connect(
            wrapper, settings, deadline, "safe_init unlock", context.report
        ) as session:
            # A person may need longer to answer than the role's timeouts allow.
            session.apply_session_settings()
            session.patience = lambda: ANSWER_SECONDS
            yield find_holder(session, context)
    except (ConnectionEnded, psycopg.OperationalError) as exc:
        raise DatabaseUnreachable(
            f"The connection to {alias!r} ended: {one_line(exc)}"
        ) from exc


def find_holder(session: Session, context: Context) -> PostgresLockHolder | None:
    """Return the current leader, or None."""
    lock_key = context.settings.lock_key
    sessions = leader_sessions(session, lock_key)
    if not sessions or not sessions[0].leads:
        sessions = []
    prepared = prepared_holders(session.read, leader_key(lock_key), work_key(lock_key))
    if not sessions and not prepared:
        return None
    run = open_run(PostgresReader(session, context.build, lock_key))
    leads = sessions and run is not None and run.backend_pid == sessions[0].pid
    return PostgresLockHolder(
        run if leads else None,
        tuple(sessions),
        blockers(session, sessions),
        session,
        prepared,
    )


#: The login role, not `assume_role`, has the right to terminate a backend. SET LOCAL leaves
#: nothing behind in a pooler.
_TERMINATE = """
    SET LOCAL ROLE NONE;
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid = %(pid)s AND coalesce(backend_start::text = %(started)s, true)
"""


def terminate(session: Session, pid: int, started: str | None = None) -> bool:
    """Terminate a session if it still exists; return False if this role may not.

    `started`, the start time, excludes a later session with the same process id.
    """
    try:
        session.rows(_TERMINATE, {"pid": pid, "started": started})
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def cannot_terminate(pid: int, role: str, detail: str = "") -> str:
    """Return the sentence that this role may not terminate the session, with the remedy."""
    known = f" ({detail})" if detail else ""
    return (
        f"Backend {pid} of the role {printable(role)}{known} may not be ended by this role; "
        f"an administrator can: {how_to_terminate(pid)}"
    )


def terminate_sessions(
    session: Session, targets: Sequence[LeaderSession], seconds: float
) -> str | None:
    """Terminate these sessions, but no later ones; return None, or the reason why some remain.

    The order of `targets` is kept, so that a leader loses its lock before its work.
    """
    for target in targets:
        if not terminate(session, target.pid, target.started):
            return cannot_terminate(target.pid, target.role)
    deadline = Deadline(seconds)
    while left := _remaining(session, targets):
        if deadline.passed():
            return f"Told to end, and not ended within {seconds:g} s: backend {name_some(left)}."
        sleep(0.02)
    return None


def _remaining(session: Session, targets: Sequence[LeaderSession]) -> list[int]:
    rows = session.read(
        "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = ANY(%(pids)s)",
        {"pids": [target.pid for target in targets]},
    )
    identities = {target.identity for target in targets}
    return [pid for pid, started in rows if (pid, started) in identities]
