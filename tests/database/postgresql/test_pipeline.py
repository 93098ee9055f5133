"""Statements that a session sends without waiting for the result."""

from __future__ import annotations

import psycopg
import pytest

from django_safe_init.backends.postgresql import session as module
from django_safe_init.backends.postgresql.errors import is_connection_loss


def test_the_next_use_waits(session) -> None:
    """A pending statement finishes before the next use of the session."""
    pending = session.send(
        "CREATE TABLE public.a (i int); INSERT INTO public.a VALUES (%(i)s)", {"i": 7}
    )
    assert session.rows("SELECT i FROM public.a") == [(7,)]
    assert pending.rows() == []


def test_rows_of_the_last_statement(session) -> None:
    """A pending query returns the typed rows of its last statement."""
    pending = session.send("SELECT 1; SELECT 2, ARRAY[3, 4], %(text)s", {"text": "é"})
    assert pending.rows() == [(2, [3, 4], "é")]


def test_an_error_belongs_to_its_query(session) -> None:
    """An error is raised by the pending query that caused it, not by the next use."""
    pending = session.send("SELECT 1 / 0")
    assert session.rows("SELECT 1") == [(1,)]
    with pytest.raises(psycopg.errors.DivisionByZero):
        pending.rows()


def test_more_than_the_socket_takes(session) -> None:
    """A message larger than the socket's buffer arrives whole."""
    text = "x" * 20_000_000
    assert session.send("SELECT length(%(text)s)", {"text": text}).rows() == [
        (20_000_000,)
    ]


def test_a_session_that_ends(session, django_database) -> None:
    """A lost session raises a connection error at every use."""
    django_database.rows("SELECT pg_terminate_backend(%s, 5000)", session.handshake_pid)
    for _ in range(2):
        with pytest.raises(psycopg.Error) as caught:
            session.send("SELECT 1").rows()
        assert is_connection_loss(caught.value)


@pytest.mark.parametrize("use", ["rows", "send"])
def test_a_signal_between_a_statement_and_its_result(session, monkeypatch, use) -> None:
    """The session is usable after a signal interrupt the driver."""

    def interrupt(*arguments) -> None:
        session.raw.pgconn.send_query(b"SELECT pg_sleep(60); SELECT 2")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "PendingQuery", interrupt)
        patch.setattr(module.psycopg.ClientCursor, "execute", interrupt)
        with pytest.raises(KeyboardInterrupt):
            getattr(session, use)("SELECT 1")
    assert session.rows("SELECT 3") == [(3,)]
