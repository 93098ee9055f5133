"""Provide a dedicated session to the server, outside Django's wrappers and every pool.

A session sets its parameters with SQL after connecting, because PgBouncer and RDS Proxy reject
startup options.
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


#: Let the server notice a dead client, and let no timeout of the role end the session. While a
#: statement runs, the server needs both the keepalives and the connection check.
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

#: The `tcp_user_timeout` of both sides, because no keepalives are sent while sent data is not
#: acknowledged. It applies only to this package's sessions, whose messages are small: it would
#: also end a connection whose other side is slow to read.
_TCP_USER_TIMEOUT_MS = 5000

#: For `Session.read`: a reader does not wait long for a table that a migration locks, and times
#: are in UTC.
_READ_SETTINGS = (
    "SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '10s'; "
    "SET LOCAL TimeZone = 'UTC'; "
)

_CANCEL_TIMEOUT = 2.0

_refused_settings: set[str] = set()


class Session:
    """A dedicated autocommit connection to the server of an alias.

    Statements use the simple protocol (`ClientCursor`). A statement of the extended protocol can
    keep a snapshot, which blocks `CREATE INDEX CONCURRENTLY`. Several threads may use a session;
    a forked child may not (see `_disconnect_in_child`).
    """

    def __init__(
        self, wrapper: BaseDatabaseWrapper, name: str, connect_timeout: float
    ) -> None:
        params = wrapper.get_connection_params()
        for key in ("context", "cursor_factory"):
            params.pop(key, None)
        params.setdefault("tcp_user_timeout", _TCP_USER_TIMEOUT_MS)
        params.update(
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=max(1, round(connect_timeout)),
            application_name=name,
        )
        self.alias = wrapper.alias
        self.role: str | None = wrapper.settings_dict["OPTIONS"].get("assume_role")
        self.raw = psycopg.connect(**params, cursor_factory=psycopg.ClientCursor)
        self._has_settings = False
        self._sent: PendingQuery | None = None
        self._prepared: set[str] = set()
        self._lock = threading.RLock()
        self._check_role()
        _sessions.add(self)

    def _check_role(self) -> None:
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
        """Return the rows of the statement, or of the last one of several."""
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
        """Send statements without waiting. The next use of the session waits for them first."""
        with self._lock:
            self.wait()
            with self._drain_on_interrupt():
                self._sent = PendingQuery(self.raw, statements, params)
                return self._sent

    @contextlib.contextmanager
    def _drain_on_interrupt(self) -> Iterator[None]:
        """Read all remaining results if a signal arrives between a statement and its result.

        psycopg does so only while it waits for the socket. Otherwise the session would reject
        the next statement, and an interrupted run could not be closed.
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
        """Wait for the sent statements. Their sender gets the result or the error."""
        with self._lock:
            if self._sent is not None:
                self._sent.wait()

    def read(
        self, statement: str, params: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Return the rows of a query, with limits that apply only to this query.

        The query is one message, so one implicit transaction, and leaves nothing behind in a
        pooler. Raises `TablesLocked`, `TablesUnreadable` or `ConnectionEnded`.
        """
        role = f"SET LOCAL ROLE {_quoted(self.role)}; " if self.role else ""
        with translate_errors():
            return self.rows(_READ_SETTINGS + role + statement, params)

    def prepare(self, statements: Mapping[str, str]) -> None:
        """Prepare the statements, with parameters $1, $2..., for `EXECUTE` on this session.

        Statements that this session has already prepared are skipped.
        """
        for name in statements.keys() - self._prepared:
            self.rows(f"PREPARE {name} AS {statements[name]}")
            self._prepared.add(name)

    def apply_session_settings(self) -> None:
        """Apply `SESSION_SETTINGS` and assume the role, on the first call only."""
        if not self._has_settings:
            apply_session_settings(
                self.raw, {"tcp_user_timeout": str(_TCP_USER_TIMEOUT_MS)}
            )
            self.assume_role()
            self._has_settings = True

    def assume_role(self) -> None:
        """Set the role that owns the tables, if it differs from the login role."""
        if self.role:
            self.rows(f"SET ROLE {_quoted(self.role)}")

    @property
    def handshake_pid(self) -> int:
        """Return the process id from the protocol's handshake; a pooler invents one."""
        return self.raw.info.backend_pid

    def close(self) -> None:
        """Close the session, which releases its advisory locks."""
        self.raw.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _disconnect_in_child() -> None:
    """Disconnect a forked child from the parent's sessions.

    A child that closed a session would end it for the parent. A child that kept the socket open
    would keep a dead parent's lock.
    """
    devnull = os.open(os.devnull, os.O_RDWR)
    for session in list(_sessions):
        with contextlib.suppress(psycopg.OperationalError):  # already closed: no socket
            os.dup2(devnull, session.raw.fileno(), inheritable=False)
    os.close(devnull)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disconnect_in_child)


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def apply_session_settings(
    raw: psycopg.Connection[Any], extra: Mapping[str, str] | None = None
) -> None:
    """Set `SESSION_SETTINGS` and `extra`; log each setting that the server rejects, once."""
    known = {
        name: value
        for name, value in {**SESSION_SETTINGS, **(extra or {})}.items()
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
    """Cancel the running statement of the connection, if any."""
    if raw.info.transaction_status == TransactionStatus.ACTIVE:
        with contextlib.suppress(psycopg.Error):  # it may be closed
            raw.cancel_safe(timeout=_CANCEL_TIMEOUT)
