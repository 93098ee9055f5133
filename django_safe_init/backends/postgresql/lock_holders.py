"""Wait for locks that other sessions hold, and name these sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import psycopg

from django_safe_init.backends.base.lock import LockWaitTimeout
from django_safe_init.backends.postgresql.lock_keys import HOLDERS
from django_safe_init.core import cancellation
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE
from django_safe_init.core.text import printable

if TYPE_CHECKING:
    from django_safe_init.backends.postgresql.session import Session

T = TypeVar("T")
#: Returns the rows of a statement: `Session.rows`, or `Session.read`.
Query = Callable[[str, dict[str, Any]], list[Any]]

_SESSIONS = """
    SELECT pid, coalesce(usename, '?'), coalesce(application_name, ''), host(client_addr)
    FROM pg_stat_activity WHERE pid IN ({pids}) AND pid <> pg_backend_pid()
    ORDER BY backend_start, pid
"""
KEY_HOLDERS = _SESSIONS.format(pids=HOLDERS)
_TABLE_HOLDERS = _SESSIONS.format(
    pids="""
    SELECT pid FROM pg_locks WHERE locktype = 'relation' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND relation IN (SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS name)
"""
)

#: The errors of a statement that waited too long for a lock, and can be retried. A cancellation
#: may have been meant for the previous statement, because PostgreSQL cancels the running one.
LOCKED = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)


class Holder(NamedTuple):
    """A session that holds a lock."""

    pid: int
    role: str
    application: str
    #: None for a client on the same host, and for a role that may not see it.
    client: str | None

    @property
    def detail(self) -> str:
        """Return the application's name and the address."""
        address = f"from {self.client}" if self.client else "no address to be seen"
        return printable(f"{self.application or 'no name'}, {address}")

    def __str__(self) -> str:
        return f"backend {self.pid} (role {printable(self.role)}, {self.detail})"


def key_holders(query: Query, key: int) -> list[Holder]:
    """Return the other sessions that hold the advisory lock with the key."""
    return [Holder(*row) for row in query(KEY_HOLDERS, {"key": key})]


def table_holders(session: Session, query: Query) -> list[Holder]:
    """Return the other sessions that hold a lock on a status table."""
    tables = [session.tables.qualified(name) for name in (RUN_TABLE, STEP_TABLE)]
    return [Holder(*row) for row in query(_TABLE_HOLDERS, {"tables": tables})]


def name_all(holders: Iterable[Holder]) -> str:
    """Return the holders as text."""
    return ", ".join(map(str, holders)) or "a session that has ended since"


def retry_while_locked(call: Callable[[], T], session: Session, seconds: float) -> T:
    """Return the result of `call` as soon as it gets its locks on the status tables.

    The session's `lock_timeout` limits each attempt. Raises `LockWaitTimeout`, which names the
    holders, after `seconds`.
    """
    deadline = Deadline(seconds)
    while True:
        try:
            return call()
        except LOCKED as exc:
            cancellation.check()
            if deadline.passed():
                holders = name_all(table_holders(session, session.rows))
                raise LockWaitTimeout(
                    f"The status tables stayed locked by {holders}. End that session, and "
                    "start again."
                ) from exc
