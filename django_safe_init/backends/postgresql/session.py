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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from django_safe_init.backends.postgresql.answer_limit import limit_answer
from django_safe_init.backends.postgresql.errors import (
    translate_errors,
)
from django_safe_init.backends.postgresql.pipeline import PendingQuery
from django_safe_init.backends.postgresql.project_connection import (
    SEARCH_PATH,
    Raw,
    open_connection,
    plain_cursor,
    results,
)
from django_safe_init.backends.postgresql.table_locations import (
    LOCATE_TABLES,
    LOCATE_TABLES_FAST,
    TableLocations,
    locate_params,
)
from django_safe_init.backends.tenants import get_tenancy
from django_safe_init.core.databases import quoted_migration_table
from django_safe_init.core.records import MIGRATION_TABLE, RUN_TABLE
from django_safe_init.core.text import exception_chain
from django_safe_init.exceptions import ConfigurationError, MissingPrivilege

logger = logging.getLogger("django_safe_init")


#: Let the server notice a dead client. While a statement runs, the server needs both the
#: keepalives and the connection check.
PATROL_SETTINGS = {
    "client_connection_check_interval": "100ms",
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
}
#: Let no timeout of the role end the session of a leader or follower.
NO_TIMEOUTS = {
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",  # PostgreSQL 17 and newer
}

#: The `tcp_user_timeout` of both sides, because no keepalives are sent while sent data is not
#: acknowledged. It applies only to this package's sessions, whose messages are small: it would
#: also end a connection whose other side is slow to read.
_TCP_USER_TIMEOUT_MS = 5000

_LOCAL_SEARCH_PATH = f"SET LOCAL search_path = {SEARCH_PATH}; "
#: The settings of the project's connections that this package's statements do not expect.
_PINNED = {
    "search_path": SEARCH_PATH,
    "TimeZone": "UTC",
    "default_transaction_isolation": "read committed",
}
_OWN_SETTINGS = {**_PINNED, "tcp_user_timeout": str(_TCP_USER_TIMEOUT_MS)}
#: Applied to a server session of our own, so not behind a pooler; else it returns no row.
_PIN = f"""
    SELECT {", ".join(f"pg_catalog.set_config('{k}', '{v}', false)" for k, v in _PINNED.items())},
      pg_catalog.set_config('application_name', %(name)s, false)
    WHERE pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) %(pid)s
"""

#: For `Session.read`: a reader does not wait long for a table that a migration locks, and times
#: are in UTC.
READ_LIMITS = (
    "SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '10s'; "
    "SET LOCAL TimeZone = 'UTC'; "
)
#: The errors for a role that does not exist or may not be assumed.
_ROLE_REFUSED = (
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.InsufficientPrivilege,
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
        self,
        wrapper: BaseDatabaseWrapper,
        name: str,
        connect_timeout: float,
        patience: Callable[[], float] | None = None,
    ) -> None:
        self.alias = wrapper.alias
        #: Returns the seconds that the server has for its next answer; None for no limit.
        self.patience = patience
        options = wrapper.settings_dict["OPTIONS"]
        self.role: str | None = options.get("assume_role")
        self.raw = _open(
            wrapper,
            {
                "tcp_user_timeout": _TCP_USER_TIMEOUT_MS,
                **options,
                "connect_timeout": max(1, round(connect_timeout)),
                "application_name": name,
            },
            patience,
        )
        #: False behind a pooler, where another client may get this server session.
        self._is_dedicated = True
        self._has_settings = False
        #: True for a session that is used at once: its first message has searched the tables.
        self.is_new = False
        self._sent: PendingQuery | None = None
        self._prepared: set[str] = set()
        self._lock = threading.RLock()
        _sessions.add(self)
        try:
            self._set_up(name, quoted_migration_table(wrapper))
        except BaseException:
            self.close()
            raise

    def _set_up(self, name: str, migrations: str) -> None:
        """Find the tables on the project's search path, then leave that path."""
        params = {**locate_params(migrations), "name": name, "pid": self.handshake_pid}
        role = f"SET LOCAL ROLE {quoted(self.role)}; " if self.role else ""
        path = _shared_path(self.alias)
        message = f"{READ_LIMITS}{role}{path}{LOCATE_TABLES_FAST}; {_PIN}"
        with self._drain_on_interrupt():
            [located, pinned] = results(self._execute(message, params))
        self.tables = TableLocations(migrations, *located[0])
        self._is_dedicated = bool(pinned)
        if self.tables.has_temporary:
            self._search(LOCATE_TABLES)

    def locate_tables(self) -> None:
        """Find the tables again on the search path that the project gave the connection."""
        self._search(LOCATE_TABLES_FAST)
        if self.tables.has_temporary:
            self._search(LOCATE_TABLES)

    def _search(self, query: str) -> None:
        tables = self.tables
        path = "SELECT set_config('search_path', %(path)s, true); "
        params = {**locate_params(tables.migrations), "path": tables.search_path}
        with translate_errors():
            [located] = self.rows(READ_LIMITS + path + query, params)
        self.tables = TableLocations(tables.migrations, *located)

    def locate_missing_tables(self) -> None:
        """Find the tables again if one was missing, and the session is not new."""
        is_new, self.is_new = self.is_new, False
        names = (MIGRATION_TABLE, RUN_TABLE)
        if not is_new and None in map(self.tables.existing, names):
            self.locate_tables()

    def rows(
        self, statement: str, params: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Return the rows of the statement, or of the last one of several.

        The statement names the tables without their schema.
        """
        with self._lock:
            self.wait()
            with self._drain_on_interrupt():
                cursor = self._execute(self._complete(statement, params), params)
                while cursor.nextset():
                    pass
                return cursor.fetchall() if cursor.description else []

    def _execute(
        self, statement: str, params: Mapping[str, Any] | None
    ) -> psycopg.Cursor[Any]:
        # Not `raw.execute`, which the project's class of connections may override.
        cursor = psycopg.ClientCursor(self.raw, row_factory=tuple_row)
        if self.patience is None:
            return cursor.execute(statement, params)
        seconds = self.patience()
        with limit_answer(lambda: self.raw, psycopg.OperationalError, seconds):
            return cursor.execute(statement, params)

    def _complete(self, statement: str, params: Mapping[str, Any] | None) -> str:
        """Return the statement with the tables' schemas, and with a search path of its own."""
        path = "" if self._is_dedicated else _LOCAL_SEARCH_PATH
        return path + self.tables.qualify(statement, has_params=params is not None)

    def send(
        self, statements: str, params: Mapping[str, Any] | None = None
    ) -> PendingQuery:
        """Send statements without waiting. The next use of the session waits for them first."""
        with self._lock:
            self.wait()
            with self._drain_on_interrupt():
                self._sent = PendingQuery(
                    self.raw, self._complete(statements, params), params
                )
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
        with translate_errors():
            return self.rows(READ_LIMITS + self._local_role + statement, params)

    @property
    def _local_role(self) -> str:
        """The statement that assumes the role again: a pooler may have changed the session."""
        if self._is_dedicated or self.role is None:
            return ""
        return f"SET LOCAL ROLE {quoted(self.role)}; "

    def compose(self, statement: str, params: Sequence[Any]) -> str:
        """Return the statement with its parameters as literals, in the style of Django's SQL."""
        return plain_cursor(self.raw).mogrify(statement, params)

    def prepare(self, statements: Mapping[str, str]) -> None:
        """Prepare the statements, with parameters $1, $2..., for `EXECUTE` on this session.

        Statements that this session has already prepared are skipped.
        """
        for name in statements.keys() - self._prepared:
            self.rows(f"PREPARE {name} AS {statements[name]}")
            self._prepared.add(name)

    def apply_session_settings(self) -> None:
        """Apply the settings of a leader or follower, on the first call only.

        Behind a pooler, call it only if `DIRECT` promises a server session of our own.
        """
        if not self._has_settings:
            values = {**PATROL_SETTINGS, **NO_TIMEOUTS, **_OWN_SETTINGS}
            apply_session_settings(self.raw, values, self.rows)
            if self.role and not self._is_dedicated:
                self.rows(f"SET ROLE {quoted(self.role)}")
            self._is_dedicated = self._has_settings = True

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


def quoted(name: str) -> str:
    """Return the name as a quoted identifier."""
    return sql.Identifier(name).as_string(None)


def _shared_path(alias: str) -> str:
    """Return the statement that sets the search path of a tenanted database's shared schema.

    A package with a schema for each tenant sets the path with each cursor, so the path of a new
    connection tells nothing.
    """
    tenancy = get_tenancy(alias)
    if tenancy is None:
        return ""
    path = ", ".join(map(quoted, tenancy.search_path(tenancy.shared_schema)))
    return f"SET LOCAL search_path = {path.replace('%', '%%')}; "


def _open(
    wrapper: BaseDatabaseWrapper,
    options: Mapping[str, Any],
    patience: Callable[[], float] | None,
) -> Raw:
    try:
        return open_connection(wrapper, options, patience)
    except ConfigurationError as exc:
        role: str = options.get("assume_role") or ""
        user = wrapper.settings_dict["USER"]
        for cause in exception_chain(exc):
            if role and isinstance(cause, _ROLE_REFUSED) and role in str(cause):
                raise MissingPrivilege(
                    f"The role {user} cannot be {role}, as `assume_role` asks "
                    f"({cause.diag.message_primary}). As an administrator: "
                    f"GRANT {quoted(role)} TO {quoted(user)};"
                ) from exc
        raise


def apply_session_settings(
    raw: Raw,
    settings: Mapping[str, str],
    execute: Callable[[str], Any] | None = None,
) -> None:
    """Set these parameters; log each one that the server rejects, once.

    `execute` executes a statement on the connection; None for the driver's own way.
    """
    execute = execute or plain_cursor(raw).execute
    known = {
        name: value
        for name, value in settings.items()
        if name not in _refused_settings
        and (name != "transaction_timeout" or raw.info.server_version >= 170000)
    }
    try:
        execute(_set_config(known.items()))
    except (psycopg.DataError, psycopg.ProgrammingError):
        for item in known.items():
            _set_or_skip(execute, item)


def _set_or_skip(execute: Callable[[str], Any], item: tuple[str, str]) -> None:
    try:
        execute(_set_config([item]))
    except (psycopg.DataError, psycopg.ProgrammingError) as exc:
        _refused_settings.add(item[0])
        logger.warning("The server refuses the setting %s: %s", item[0], exc)


def _set_config(items: Iterable[tuple[str, str]]) -> str:
    calls = sql.SQL(", ").join(
        sql.SQL("pg_catalog.set_config({}, {}, false)").format(name, value)
        for name, value in items
    )
    return (sql.SQL("SELECT ") + calls).as_string(None)


def cancel_statement(raw: psycopg.Connection[Any]) -> None:
    """Cancel the running statement of the connection, if any."""
    if raw.info.transaction_status == TransactionStatus.ACTIVE:
        with contextlib.suppress(psycopg.Error):  # it may be closed
            raw.cancel_safe(timeout=_CANCEL_TIMEOUT)
