"""Lost connections of the application."""

from __future__ import annotations

import gc
from contextlib import suppress
from typing import Any

import pytest
from django.db import OperationalError, connection

from django_safe_init.backends.postgresql.losses import PostgresLossDetector


@pytest.fixture
def detector() -> PostgresLossDetector:
    return PostgresLossDetector()


def terminate(database: Any) -> None:
    """Terminate the session of Django's connection, and let Django notice."""
    pid = connection.connection.info.backend_pid
    database.rows("SELECT pg_terminate_backend(%s, 20000)", pid)
    with suppress(OperationalError):
        connection.cursor().execute("SELECT 1")


def test_a_connection_that_was_closed(detector, django_database) -> None:
    """A connection that the application itself closes is not lost."""
    connection.ensure_connection()
    detector.add(connection.connection)
    assert not detector.pop()
    connection.close()
    gc.collect()
    assert not detector.pop()


def test_a_connection_that_is_kept(detector, django_database) -> None:
    """A closed connection that is still referenced is not lost."""
    connection.ensure_connection()
    raw = connection.connection
    detector.add(raw)
    connection.close()
    assert raw.closed
    assert not detector.pop()


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_connection_that_was_lost(detector, django_database, is_kept) -> None:
    """A connection that the server ended is lost once, if Django has dropped it or not."""
    connection.ensure_connection()
    raw = connection.connection
    detector.add(raw)
    terminate(django_database)
    connection.close()
    kept = [raw] if is_kept else []
    del raw
    gc.collect()
    assert detector.pop()
    kept.clear()
    gc.collect()
    assert not detector.pop()


def test_a_connection_of_another_driver(detector) -> None:
    """An object that is not psycopg's connection is ignored."""
    detector.add(object())
    assert not detector.pop()
