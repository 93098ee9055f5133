"""Who holds the leader lock on PostgreSQL: the process, its sessions, and the end of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from django_safe_init.backends.base.holder import describe
from django_safe_init.backends.postgresql.activity import (
    LeaderSession,
    blockers,
    leader_backends,
)
from django_safe_init.backends.postgresql.ending import terminate_sessions
from django_safe_init.backends.postgresql.reader import PostgresReader
from django_safe_init.backends.postgresql.session import (
    Session,
    connect,
    create_direct_wrapper,
)
from django_safe_init.conf import Settings
from django_safe_init.core.build import current_build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import Blocker, ConnectionEnded, RunRow, TablesLocked
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import DatabaseUnreachable


@dataclass(frozen=True)
class PostgresLockHolder:
    """A leader, as the server sees it at one moment. See `holding.Holder`."""

    #: The run that it has open; None before there is one, or while our tables are locked.
    run: RunRow | None
    #: Its sessions: the one that holds the leader lock, then those that hold the work key.
    backends: tuple[LeaderSession, ...]
    #: What its statements wait for.
    blockers: tuple[Blocker, ...]
    #: Where to look, and to end them.
    session: Session

    question = "End these sessions?"

    def lines(self) -> list[str]:
        """All of it, for a person."""
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
        """End the sessions; returns why some are left, or None."""
        return terminate_sessions(self.session, self.backends, seconds)


@contextmanager
def open_holder(
    alias: str, settings: Settings, report: Callable[[str], None]
) -> Iterator[PostgresLockHolder | None]:
    """Who holds the leader lock now, or None; on a session where the leader's own are."""
    wrapper = create_direct_wrapper(alias, settings.direct.get(alias))
    patience = Deadline(settings.connect_timeout)
    try:
        with connect(
            wrapper, settings, patience, "safe_init unlock", report
        ) as session:
            session.apply_session_settings()  # an answer may take longer than the role's time-outs
            yield find_holder(session, settings.lock_key)
    except (ConnectionEnded, psycopg.OperationalError) as exc:
        raise DatabaseUnreachable(
            f"The connection to {alias!r} ended: {one_line(exc)}"
        ) from exc


def find_holder(session: Session, lock_key: str | None) -> PostgresLockHolder | None:
    """Who holds the leader lock now, or None."""
    backends = leader_backends(session, lock_key)
    if not backends or not backends[0].leads:
        return None
    waited_for = [pid for backend in backends for pid in backend.blocking_pids]
    return PostgresLockHolder(
        _open_run(PostgresReader(session, current_build(), lock_key), backends[0].pid),
        tuple(backends),
        blockers(session, waited_for),
        session,
    )


def _open_run(reader: PostgresReader, pid: int) -> RunRow | None:
    try:
        run = reader.glance().latest
    except TablesLocked:
        return None
    return run if run is not None and run.open and run.backend_pid == pid else None
