"""Interpret the errors of PostgreSQL and psycopg."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import psycopg

from django_safe_init.backends.base.transaction import is_refused_transaction
from django_safe_init.core.records import (
    ConnectionEnded,
    TablesLocked,
    TablesUnreadable,
)
from django_safe_init.core.text import (
    MAX_ERROR_LENGTH,
    exception_chain,
    one_line,
    shorten,
)
from django_safe_init.exceptions import (
    InitializationFailed,
    LockLost,
    SafeInitError,
)

#: The server answers, but has no free connection (SQLSTATE 53300, 57P03). libpq reports no
#: SQLSTATE for a failed connection, so the text decides. A text in another language is retried
#: like any other error.
_BUSY = (
    "too many clients",
    "too many connections",
    "remaining connection slots",
    "no more connections allowed",
    "starting up",
    "shutting down",
    "not yet accepting connections",
    "in recovery mode",
)
#: Another attempt would fail too (SQLSTATE class 28, and a role that does not exist).
_FINAL = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects connection",
    "is not permitted to log in",
    "permission denied for database",
    "invalid connection option",
)


#: The errors of libpq and psycopg for settings that can never connect.
_UNUSABLE = re.compile(
    r"(could not|cannot) match \d+ |invalid port number|invalid integer value"
)
#: The errors of `target_session_attrs` for a standby or a read-only server.
_READ_ONLY = ("session is read-only", "server is in hot standby mode")


def _attempts(text: str) -> list[str]:
    """Return the error of each host in HOST, or the text if HOST names one host."""
    return text.split("- host: ")[1:] or [text]


def is_final(text: str) -> bool:
    """Return True if another attempt to connect would fail too; `text` is the error's text.

    If HOST names several hosts, each of them must have refused.
    """
    return all(
        any(part in attempt for part in _FINAL)
        or ('role "' in attempt and '" does not exist' in attempt)
        for attempt in _attempts(text)
    )


def is_unusable(text: str) -> bool:
    """Return True if the settings name no server at all; `text` is the error's text.

    The lists of hosts, addresses and ports differ in length, or a port is no port.
    """
    return _UNUSABLE.search(text) is not None


def has_no_primary(text: str) -> bool:
    """Return True if `target_session_attrs` ruled out every host of HOST."""
    return all(
        any(part in attempt for part in _READ_ONLY) for attempt in _attempts(text)
    )


def is_busy(error: Exception) -> bool:
    """Return True if a connection failed because the server is full or starting."""
    return any(part in str(error) for part in _BUSY)


#: The limits of a role and of a database, in the text of SQLSTATE 53300.
_LIMIT = re.compile(r'too many connections for (role|database) "(.*?)"')


def how_to_get_connections(text: str) -> str:
    """Return the remedy for the connection limit that the error's text names."""
    found = _LIMIT.search(text)
    if found is None:
        return "Raise max_connections"
    return f'Raise it with ALTER {found[1].upper()} "{found[2]}" CONNECTION LIMIT'


_SHUTDOWN = (
    psycopg.errors.AdminShutdown,
    psycopg.errors.CrashShutdown,
    psycopg.errors.CannotConnectNow,
)
#: The severities after which the server has closed the connection.
_LAST_WORDS = ("FATAL", "PANIC")


def is_connection_loss(error: BaseException | None) -> bool:
    """Return True if the server or the network ended a connection.

    An error that libpq itself detects has no SQLSTATE.
    """
    if not isinstance(error, psycopg.Error):
        return False
    return (
        isinstance(error, _SHUTDOWN)
        or error.diag.severity_nonlocalized in _LAST_WORDS
        or (type(error) is psycopg.OperationalError and error.sqlstate is None)
    )


def is_locked(error: BaseException) -> bool:
    """Return True if a time-out canceled a statement, most likely while it waited for a lock."""
    locked = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)
    return isinstance(error, locked)


def is_read_only(error: BaseException) -> bool:
    """Return True if a read-only transaction refused a statement (SQLSTATE 25006)."""
    return any(
        isinstance(each, psycopg.errors.ReadOnlySqlTransaction)
        for each in exception_chain(error)
    )


def session_error(error: psycopg.Error) -> SafeInitError:
    """Return `LockLost` if the leader session is gone or cannot write any more.

    Returns `InitializationFailed` for any other error.
    """
    if is_connection_loss(error):
        return LockLost(f"The leader session is gone: {one_line(error)}")
    if is_read_only(error):
        return LockLost(f"The server has become read-only: {one_line(error)}")
    return InitializationFailed(
        f"The run cannot be recorded: {type(error).__name__}: {one_line(error)}"
    )


@contextlib.contextmanager
def translate_session_errors(alias: str) -> Iterator[None]:
    """Turn each error of the driver in the block into an error of this package.

    Raises `LockLost` for a session that was lost, whatever it was needed for, and
    `InitializationFailed` otherwise.
    """
    try:
        yield
    except psycopg.Error as exc:
        text = one_line(exc)
        if is_read_only(exc):
            raise session_error(exc) from exc
        if is_connection_loss(exc):
            raise LockLost(
                f"A session of the database {alias!r} ended: {text}"
            ) from exc
        raise _refused(alias, exc) from exc
    except TablesUnreadable as exc:
        raise _refused(alias, exc.__cause__ or exc) from exc


def _refused(alias: str, error: BaseException) -> InitializationFailed:
    return InitializationFailed(
        f"The database {alias!r} refused a statement: {type(error).__name__}: {one_line(error)}"
    )


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Turn the driver's errors in the block into the errors that every reader raises."""
    try:
        yield
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as exc:
        raise TablesLocked(_primary(exc)) from exc
    except (psycopg.ProgrammingError, psycopg.DataError) as exc:
        # Also: a table of the same name that is not this package's.
        raise TablesUnreadable(one_line(exc)) from exc
    except psycopg.OperationalError as exc:
        raise ConnectionEnded(one_line(exc)) from exc


def _primary(error: psycopg.Error) -> str:
    """Return the error's text without the line and the position in the statement."""
    return shorten(error.diag.message_primary or str(error), MAX_ERROR_LENGTH)


def is_lost_connection(error: BaseException) -> bool:
    """Return True if a connection was lost; False for one that this process closed."""
    return is_connection_loss(error) and "the connection is closed" not in str(error)


#: `idle_in_transaction_session_timeout`, `transaction_timeout` and `idle_session_timeout`.
_TIME_OUTS = ("25P03", "25P04", "57P05")


def is_time_out(error: BaseException) -> bool:
    """Return True if a time-out of the project ended a session.

    It would end the session of the next attempt, too.
    """
    return getattr(error, "sqlstate", None) in _TIME_OUTS


#: The errors of work that fails only because of a transaction (PostgreSQL manual, appendix A):
#: a statement that refuses one; the end of one that an earlier, handled error has broken; a
#: procedure that commits; a table with pending events of triggers; a new value of an enum.
_ONLY_IN_TRANSACTION = frozenset({"25001", "25P02", "2D000", "55006", "55P04"})


def needs_no_transaction(error: BaseException) -> bool:
    """Return True if the error was raised only because of a transaction."""
    return any(
        (isinstance(each, psycopg.Error) and each.sqlstate in _ONLY_IN_TRANSACTION)
        or is_refused_transaction(each)
        for each in exception_chain(error)
    )
