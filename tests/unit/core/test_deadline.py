"""Deadlines."""

from __future__ import annotations

import pytest

from django_safe_init.core import deadline
from django_safe_init.core.deadline import Deadline


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
