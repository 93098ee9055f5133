"""Dedicated sessions to the server, outside Django's wrappers and outside every pool.

Settings that a session needs are set with SQL after connecting, never as start-up options:
PgBouncer and RDS Proxy refuse those.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql
from psycopg.pq import TransactionStatus

from django_safe_init.backends.postgresql.errors import (
    translate_errors,
)
from django_safe_init.backends.postgresql.pipeline import PendingQuery
from django_safe_init.exceptions import (
    MissingPrivilege,
)

logger = logging.getLogger("django_safe_init")


#: The server's side: a dead client is noticed, and no time-out of the role ends the session.
#: One of the two alone is not enough while a statement runs.
SESSION_SETTINGS = {
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",  # PostgreSQL 17 and newer
    "client_connection_check_interval": "100ms",
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
}

#: On both sides: keepalives are not sent while something is on its way that the other side has
#: not acknowledged. For our own sessions only, whose messages are small: it would also end a
#: connection that waits because the other side is slow to take what was sent.
ANSWER_MILLISECONDS = 5000

#: Of `Session.read`: a reader never waits long for a table that a migration has locked, and times
#: are UTC.
_READ_SETTINGS = (
    "SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '10s'; "
    "SET LOCAL TimeZone = 'UTC'; "
)

_CANCELLING_SECONDS = 2.0

_refused_settings: set[str] = set()


class Session:
    """One dedicated autocommit connection to the server of an alias.

    Statements are sent with the simple protocol (`ClientCursor`): an extended-protocol
    statement can keep a snapshot, and a snapshot stops `CREATE INDEX CONCURRENTLY`.
    Safe to use from several threads. Not usable in a forked child (see `_forget_in_child`).
    """

    def __init__(
        self, wrapper: BaseDatabaseWrapper, name: str, connect_timeout: float
    ) -> None:
        params = wrapper.get_connection_params()
        for key in ("context", "cursor_factory"):
            params.pop(key, None)
        params.setdefault("tcp_user_timeout", ANSWER_MILLISECONDS)
        params.update(
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=max(1, round(connect_timeout)),
            application_name=name,
        )
        self.alias = wrapper.alias
        self.role: str | None = wrapper.settings_dict["OPTIONS"].get("assume_role")
        self.raw = psycopg.connect(**params, cursor_factory=psycopg.ClientCursor)
        self._protected = False
        self._sent: PendingQuery | None = None
        self._prepared: set[str] = set()
        self._lock = threading.RLock()
        self._require_role()
        _sessions.add(self)

    def _require_role(self) -> None:
        if self.role is None:
            return
        try:
            self.rows(f"SET LOCAL ROLE {_quoted(self.role)}; SELECT 1")
        except psycopg.errors.DatabaseError as exc:
            user = self.raw.info.user
            self.close()
            raise MissingPrivilege(
                f"The role {user} cannot be {self.role}, as `assume_role` asks "
                f"({exc.diag.message_primary}). As an administrator: "
                f"GRANT {_quoted(self.role)} TO {_quoted(user)};"
            ) from exc

    def rows(
        self, statement: str, params: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """The rows of the statement (of the last one, if there are several)."""
        with self._lock:
            self.wait()
            with self._drain_on_interrupt():
                cursor = self.raw.execute(statement, params)
                while cursor.nextset():
                    pass
                return cursor.fetchall() if cursor.description else []

    def send(
        self, statements: str, params: Mapping[str, Any] | None = None
    ) -> PendingQuery:
        """Send statements; the next use of the session waits for them first."""
        with self._lock:
            self.wait()
            with self._drain_on_interrupt():
                self._sent = PendingQuery(self.raw, statements, params)
                return self._sent

    @contextlib.contextmanager
    def _drain_on_interrupt(self) -> Iterator[None]:
        """Take in what is still to come, if a signal comes between a statement and its result.

        psycopg does that where it waits, and not where it works. Without it the session would
        refuse whatever comes next, and a run that is interrupted could not be closed.
        """
        try:
            yield
        except KeyboardInterrupt:
            with contextlib.suppress(psycopg.Error):
                cancel_statement(self.raw)
                while self.raw.pgconn.get_result() is not None:
                    pass
            raise

    def wait(self) -> None:
        """Wait for what was sent; what became of it is for who sent it."""
        with self._lock:
            if self._sent is not None:
                self._sent.wait()

    def read(
        self, statement: str, params: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """The rows of a query, within limits that hold for this query alone.

        One message, so one implicit transaction: nothing is left behind in a pooler. Raises
        `TablesLocked`, `TablesUnreadable` or `ConnectionEnded`.
        """
        role = f"SET LOCAL ROLE {_quoted(self.role)}; " if self.role else ""
        with translate_errors():
            return self.rows(_READ_SETTINGS + role + statement, params)

    def prepare(self, statements: Mapping[str, str]) -> None:
        """Let the session `EXECUTE` the statements, which have parameters $1, $2...

        The server plans them once, unless they were prepared on this session already.
        """
        for name in statements.keys() - self._prepared:
            self.rows(f"PREPARE {name} AS {statements[name]}")
            self._prepared.add(name)

    def apply_session_settings(self) -> None:
        """Arm the session against dead clients and against the role's time-outs, once."""
        if not self._protected:
            apply_session_settings(
                self.raw, {"tcp_user_timeout": str(ANSWER_MILLISECONDS)}
            )
            self.assume_role()
            self._protected = True

    def assume_role(self) -> None:
        """Be the role that owns the tables, where that is not the one that logs in."""
        if self.role:
            self.rows(f"SET ROLE {_quoted(self.role)}")

    @property
    def handshake_pid(self) -> int:
        """The server process that the protocol's handshake named; a pooler invents one."""
        return self.raw.info.backend_pid

    def close(self) -> None:
        """End the session; its advisory locks are free then."""
        self.raw.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _forget_in_child() -> None:
    """Cut a forked child off the parent's sessions.

    A child that closes one would end the parent's session, and a child that keeps the socket
    open would keep a dead parent's lock.
    """
    devnull = os.open(os.devnull, os.O_RDWR)
    for session in list(_sessions):
        with contextlib.suppress(psycopg.OperationalError):  # already closed: no socket
            os.dup2(devnull, session.raw.fileno(), inheritable=False)
    os.close(devnull)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def apply_session_settings(
    raw: psycopg.Connection[Any], more: Mapping[str, str] | None = None
) -> None:
    """Set `SESSION_SETTINGS` and `more`; log each setting the server rejects once."""
    known = {
        name: value
        for name, value in {**SESSION_SETTINGS, **(more or {})}.items()
        if name not in _refused_settings
        and (name != "transaction_timeout" or raw.info.server_version >= 170000)
    }
    try:
        _set_config(raw, known.items())
    except (psycopg.DataError, psycopg.ProgrammingError):
        for item in known.items():
            _set_or_skip(raw, item)


def _set_or_skip(raw: psycopg.Connection[Any], item: tuple[str, str]) -> None:
    try:
        _set_config(raw, [item])
    except (psycopg.DataError, psycopg.ProgrammingError) as exc:
        _refused_settings.add(item[0])
        logger.warning("The server refuses the setting %s: %s", item[0], exc)


def _set_config(raw: psycopg.Connection[Any], items: Iterable[tuple[str, str]]) -> None:
    calls = sql.SQL(", ").join(
        sql.SQL("set_config({}, {}, false)").format(name, value)
        for name, value in items
    )
    psycopg.ClientCursor(raw).execute(sql.SQL("SELECT ") + calls)


def cancel_statement(raw: psycopg.Connection[Any]) -> None:
    """Cancel what the connection does just now, if it does anything."""
    if raw.info.transaction_status == TransactionStatus.ACTIVE:
        with contextlib.suppress(psycopg.Error):  # it may be closed by now
            raw.cancel_safe(timeout=_CANCELLING_SECONDS)
