"""Classification of PostgreSQL's connection errors."""

from __future__ import annotations

from types import SimpleNamespace

import psycopg
import pytest

from django_safe_init.backends.postgresql import run_session
from django_safe_init.backends.postgresql.errors import (
    is_busy,
    translate_session_errors,
)
from django_safe_init.backends.postgresql.project_connection import (
    _driver_errors as driver_errors,
)
from django_safe_init.core.records import TablesUnreadable
from django_safe_init.exceptions import InitializationFailed, LockLost


@pytest.mark.parametrize(
    "text",
    [
        "FATAL:  sorry, too many clients already",
        'FATAL:  too many connections for role "shop"',
        "FATAL:  remaining connection slots are reserved for roles with SUPERUSER",
        "FATAL:  no more connections allowed (max_client_conn)",
        "FATAL:  the database system is starting up",
        "FATAL:  the database system is shutting down",
        "FATAL:  the database system is not yet accepting connections",
        "FATAL:  the database system is in recovery mode",
    ],
)
def test_busy(text) -> None:
    """A database server that is full or still starting counts as busy."""
    assert is_busy(psycopg.OperationalError(text))


@pytest.mark.parametrize(
    "text", ["connection refused", 'database "shop" does not exist', "timeout expired"]
)
def test_not_busy(text) -> None:
    """Any other error is a failed attempt."""
    assert not is_busy(psycopg.OperationalError(text))


@pytest.mark.parametrize(
    ("error", "expected", "text"),
    [
        (psycopg.errors.AdminShutdown("ended"), LockLost, "session of the database"),
        (psycopg.errors.ReadOnlySqlTransaction("no"), LockLost, "become read-only"),
        (psycopg.errors.UndefinedColumn("x"), InitializationFailed, "UndefinedColumn"),
        (TablesUnreadable("x"), InitializationFailed, "refused a statement"),
    ],
)
def test_errors_of_a_session(error, expected, text) -> None:
    """A session that ended, or whose server cannot be written any more, is lost."""
    with pytest.raises(expected, match=text), translate_session_errors("default"):
        raise error


def test_an_interface_that_a_receiver_closed() -> None:
    """A receiver that closed the new connection has lost it, as the server may have."""
    with (
        pytest.raises(psycopg.OperationalError, match="closed"),
        driver_errors("default"),
    ):
        raise psycopg.InterfaceError("the connection is closed")


@pytest.mark.parametrize(
    ("error", "expected"), [(psycopg.OperationalError("ended"), True), (None, False)]
)
def test_a_server_that_became_read_only(monkeypatch, error, expected) -> None:
    """A session that ended while it was asked counts as one of a read-only server."""

    def inspect(session: object) -> object:
        if error is not None:
            raise error
        return SimpleNamespace(is_read_only=False)

    monkeypatch.setattr(run_session, "inspect_connection", inspect)
    run = SimpleNamespace(_session=None)
    found = run_session.PostgresRunSession._server_is_read_only(run)
    assert found is expected
