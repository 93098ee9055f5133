"""Wait for locks that other sessions hold, and name these sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import psycopg

from django_safe_init.backends.base.lock import LockWaitTimeout
from django_safe_init.backends.postgresql.lock_keys import HELD
from django_safe_init.backends.postgresql.remedies import (
    PREPARED,
    how_to_roll_back,
    how_to_terminate,
    literal,
)
from django_safe_init.core import cancellation
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import (
    MIGRATION_TABLE,
    PREPARED_PID,
    RUN_TABLE,
    STEP_TABLE,
    leader_of,
)
from django_safe_init.core.text import first_of, name_some, printable, with_commands

if TYPE_CHECKING:
    from django_safe_init.backends.postgresql.session import Session

T = TypeVar("T")
#: Returns the rows of a statement: `Session.rows`, or `Session.read`.
Query = Callable[[str, dict[str, Any]], list[Any]]

_HOLDERS = f"""
    WITH held AS MATERIALIZED ({{held}})
    SELECT pid, coalesce(usename, '?'), coalesce(application_name, ''),
           host(client_addr), NULL, name
    FROM held JOIN pg_stat_activity USING (pid) WHERE pid <> pg_backend_pid()
    UNION
    SELECT held.pid, owner, 'prepared at ' || prepared::timestamptz(0), database, gid, name
    FROM held JOIN ({PREPARED}) AS prepared USING (virtualtransaction)
    WHERE held.pid = {PREPARED_PID}
    ORDER BY pid
"""
KEY_HOLDERS = _HOLDERS.format(
    held=f"SELECT pid, virtualtransaction, NULL AS name FROM {HELD} WHERE key = %(key)s"
)
_TABLE_HOLDERS = _HOLDERS.format(
    held=f"""
    SELECT coalesce(pid, {PREPARED_PID}) AS pid, virtualtransaction, name
    FROM pg_locks JOIN unnest(%(tables)s::text[]) AS name ON relation = to_regclass(name)
    WHERE locktype = 'relation' AND granted AND mode LIKE %(mode)s
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
)

#: The lock mode that blocks a SELECT.
BLOCKS_READS = "AccessExclusiveLock"

#: The errors of a statement that waited too long for a lock, and can be retried. A cancellation
#: may have been meant for the previous statement, because PostgreSQL cancels the running one.
LOCKED = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)


#: Stands for a holder that no query shows.
UNSEEN = "a session that has ended since"


class Holder(NamedTuple):
    """A session, or a prepared transaction, that holds a lock."""

    pid: int
    role: str
    #: The name of the application; the time of a prepared transaction.
    application: str
    #: The address, or the database of a prepared transaction. None for a client on the same host,
    #: and for a role that may not see the address.
    client: str | None
    #: The identifier of a prepared transaction; None for a session.
    gid: str | None = None
    #: The locked table; None for a key.
    table: str | None = None

    @property
    def detail(self) -> str:
        """Return the application's name and the address."""
        if self.gid is not None:
            return printable(f"database {self.client}, {self.application}")
        address = f"from {self.client}" if self.client else "no address to be seen"
        return printable(f"{self.application or 'no name'}, {address}")

    @property
    def remedy(self) -> str:
        """Return the statement that ends the holder, for a person."""
        if self.gid is not None:
            return how_to_roll_back(self.gid)
        return how_to_terminate(self.pid)

    def __str__(self) -> str:
        if self.gid is None:
            return f"backend {self.pid} (role {printable(self.role)}, {self.detail})"
        return (
            f"the prepared transaction {literal(self.gid)} "
            f"(role {printable(self.role)}, {self.detail})"
        )

    @property
    def as_leader(self) -> str:
        """Return the holder of the leader lock; by its process if the session names it."""
        leader = leader_of(self.application) if self.gid is None else ""
        return f"the leader {printable(leader)}" if leader else self.with_remedy

    @property
    def with_remedy(self) -> str:
        """Return the holder; with the statement that ends a prepared transaction."""
        return str(self) if self.gid is None else f"{self}. To end it: {self.remedy}"


def key_holders(query: Query, key: int) -> list[Holder]:
    """Return the holders of the advisory lock with the key, without this session."""
    return [Holder(*row) for row in query(KEY_HOLDERS, {"key": key})]


def prepared_holders(query: Query, *keys: int) -> tuple[Holder, ...]:
    """Return the prepared transactions that hold an advisory lock with one of the keys."""
    found = [each for key in keys for each in key_holders(query, key)]
    return tuple(dict.fromkeys(each for each in found if each.gid is not None))


def table_holders(session: Session, query: Query, mode: str = "%") -> list[Holder]:
    """Return the holders of a lock on a status table or on the table of migrations.

    `mode` is a pattern for LIKE, such as `BLOCKS_READS`.
    """
    names = (RUN_TABLE, STEP_TABLE, MIGRATION_TABLE)
    tables = [session.tables.qualified(name) for name in names]
    rows = query(_TABLE_HOLDERS, {"tables": tables, "mode": mode})
    return [Holder(*row) for row in rows]


def name_all(holders: Iterable[Holder]) -> str:
    """Return the holders as text, without the statements that end them."""
    return name_some(holders) or UNSEEN


def locked_tables(holders: Sequence[Holder], end: str = "") -> str:
    """Return the sentences that name the locked tables, their holders and the remedies.

    `end` is a further sentence, such as " Start again then."
    """
    if not holders:
        return (
            f"The status tables stayed locked by a session that has ended since.{end}"
        )
    tables = sorted({printable(each.table or "") for each in holders})
    found = list(dict.fromkeys(each._replace(table=None) for each in holders))
    shown, _ = first_of(found)
    noun = "table" if len(tables) == 1 else "tables"
    return with_commands(
        f"The {noun} {', '.join(tables)} stayed locked by {name_all(found)}. To end that:",
        [each.remedy for each in shown],
        end,
    )


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
                holders = table_holders(session, session.rows)
                raise LockWaitTimeout(
                    locked_tables(holders, " Start again then.")
                ) from exc
