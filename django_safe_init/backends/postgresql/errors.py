"""Interpret the errors of PostgreSQL and psycopg."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from django_safe_init.core.records import (
    ConnectionEnded,
    TablesLocked,
    TablesUnreadable,
)
from django_safe_init.core.text import one_line
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


def is_final(text: str) -> bool:
    """Return True if another attempt to connect would fail too; `text` is the error's text."""
    return any(part in text for part in _FINAL) or (
        'role "' in text and '" does not exist' in text
    )


def is_busy(error: Exception) -> bool:
    """Return True if a connection failed because the server is full or starting."""
    return any(part in str(error) for part in _BUSY)


_SHUTDOWN = (
    psycopg.errors.AdminShutdown,
    psycopg.errors.CrashShutdown,
    psycopg.errors.CannotConnectNow,
)


def is_connection_loss(error: BaseException | None) -> bool:
    """Return True if the server or the network ended a connection.

    An error that libpq itself detects has no SQLSTATE.
    """
    return isinstance(error, _SHUTDOWN) or (
        type(error) is psycopg.OperationalError and error.sqlstate is None
    )


def session_error(error: psycopg.Error) -> SafeInitError:
    """Return `LockLost` if the leader session is gone, else `InitializationFailed`."""
    if is_connection_loss(error):
        return LockLost(f"The leader session is gone: {one_line(error)}")
    return InitializationFailed(
        f"The run cannot be recorded: {type(error).__name__}: {one_line(error)}"
    )


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Turn the driver's errors in the block into the errors that every reader raises."""
    try:
        yield
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as exc:
        raise TablesLocked(one_line(exc)) from exc
    except (
        psycopg.errors.UndefinedTable,
        psycopg.errors.InsufficientPrivilege,
    ) as exc:
        raise TablesUnreadable(one_line(exc)) from exc
    except psycopg.OperationalError as exc:
        raise ConnectionEnded(one_line(exc)) from exc


def is_lost_connection(error: BaseException) -> bool:
    """Return True if a connection was lost; False for one that this process closed."""
    return is_connection_loss(error) and "the connection is closed" not in str(error)
