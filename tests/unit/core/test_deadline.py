"""Deadlines, the backoff between attempts to connect, and errors that mean "busy"."""

from __future__ import annotations

import psycopg
import pytest

from django_safe_init.backends.postgresql import connect
from django_safe_init.backends.postgresql.connect import _backoff as backoff
from django_safe_init.backends.postgresql.errors import is_busy
from django_safe_init.conf import Settings
from django_safe_init.core import deadline
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.text import one_line


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a test sets it."""
    now = [100.0]
    monkeypatch.setattr(deadline.time, "monotonic", lambda: now[0])
    return now


def test_a_deadline_passes(clock) -> None:
    """A deadline passes after its seconds, and clips longer waits."""
    five = Deadline(5)
    assert not five.passed()
    assert five.clip(10) == 5
    assert five.clip(2) == 2
    clock[0] += 4
    assert five.clip(10) == 1
    clock[0] += 1
    assert five.passed()
    assert five.clip(10) == 0
    clock[0] += 10
    assert five.clip(10) == 0


def test_no_deadline(clock) -> None:
    """A deadline without seconds never passes and clips nothing."""
    endless = Deadline(None)
    clock[0] += 1e9
    assert not endless.passed()
    assert endless.clip(10) == 10
    assert endless.seconds is None


def test_a_deadline_of_no_time_has_passed() -> None:
    """A deadline of zero seconds has passed at once."""
    assert Deadline(0).passed()


@pytest.mark.parametrize("factor", [0.75, 1.0])
def test_backoff(monkeypatch, factor) -> None:
    """Ten attempts have nine pauses that double from 0.5 s to at most 30 s, minus jitter."""
    monkeypatch.setattr(connect.random, "uniform", lambda low, high: factor)
    pauses = list(backoff(Settings()))
    assert pauses == [pause * factor for pause in (0.5, 1, 2, 4, 8, 16, 30, 30, 30)]


def test_jitter_takes_off_a_quarter_at_most() -> None:
    """Jitter shortens a pause by at most a quarter."""
    for _ in range(50):
        [pause] = backoff(Settings(connect_attempts=2))
        assert 0.375 <= pause <= 0.5


def test_one_attempt_has_no_pause() -> None:
    """CONNECT_ATTEMPTS = 1 tries once."""
    assert list(backoff(Settings(connect_attempts=1))) == []


def test_backoff_is_limited() -> None:
    """CONNECT_MAX_WAIT is the longest pause."""
    settings = Settings(connect_attempts=20, connect_max_wait=1)
    assert max(backoff(settings)) <= 1


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


def test_one_line() -> None:
    """An error of several lines becomes one."""
    assert one_line(ValueError("first\n  second\n")) == "first second"
