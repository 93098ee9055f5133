"""The limit of a wait for an answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from django.db import OperationalError

from django_safe_init.backends.postgresql import answer_limit
from django_safe_init.backends.postgresql.answer_limit import limit_answer
from django_safe_init.backends.postgresql.connect import answer_patience
from django_safe_init.core.deadline import Deadline
from tests.support import PATIENCE, wait_until


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Yield a socket whose other side never sends anything."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    with ours, theirs:
        yield ours


def receive(sock: socket.socket) -> None:
    """Receive as a driver does: the end of the connection is an error."""
    if not sock.recv(1):
        raise ConnectionError("server closed the connection unexpectedly")


def within(limit: AbstractContextManager[None], act: Callable[[], object]) -> None:
    with limit:
        act()


def test_no_answer(silent) -> None:
    """The connection ends, and the error says how long the wait was."""
    limit = limit_answer(lambda: silent, OperationalError, 0.05)
    with pytest.raises(OperationalError, match=r"^no answer for 0\.05 s$") as caught:
        within(limit, lambda: receive(silent))
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_an_answer_in_time(silent) -> None:
    """Nothing happens to a connection that has answered, and no thread is left."""
    before = threading.active_count()
    for _ in range(20):
        with limit_answer(lambda: silent, OperationalError, PATIENCE):
            pass
    wait_until(lambda: threading.active_count() <= before)
    silent.send(b"x")


def test_the_error_of_an_attempt_to_connect() -> None:
    """Without a connection, an error stays the driver's own, however late it is."""
    asked: list[None] = []

    def fail() -> None:
        wait_until(lambda: len(asked) > 1)
        raise ConnectionError("role does not exist")

    limit = limit_answer(lambda: asked.append(None), OperationalError, 0.01)
    with pytest.raises(ConnectionError, match="role does not exist"):
        within(limit, fail)


def test_a_connection_that_comes_late(silent) -> None:
    """The limit starts again for a connection that took longer than the limit to open."""
    asked: list[None] = []

    def connection() -> socket.socket | None:
        asked.append(None)
        return silent if len(asked) > 1 else None

    limit = limit_answer(connection, OperationalError, 0.01)
    with pytest.raises(OperationalError, match="no answer"):
        within(limit, lambda: receive(silent))


def test_a_closed_connection(silent) -> None:
    """A connection that was closed has no socket to shut down."""
    silent.close()
    assert not answer_limit._shut_down(silent)


def test_an_interrupt(silent, monkeypatch) -> None:
    """A signal while the limit begins leaves no thread that ends the connection later."""
    start = threading.Thread.start

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    before = threading.active_count()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_and_interrupt)
        limit = limit_answer(lambda: silent, OperationalError, 0.2)
        with pytest.raises(KeyboardInterrupt):
            within(limit, lambda: pytest.fail("the block was entered"))
    wait_until(lambda: threading.active_count() <= before)
    silent.send(b"x")


@pytest.mark.parametrize(
    ("seconds", "expected"), [(None, 15), (0, 15), (1e-9, 2), (10**9, 15)]
)
def test_patience(seconds, expected) -> None:
    """A time-out shortens the wait to 2 s; a status, whose deadline is 0, waits for 15 s."""
    assert answer_patience(Deadline(seconds))() == expected
