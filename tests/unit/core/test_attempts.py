"""Attempts that are repeated after a loss, or while the server is read-only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from django_safe_init.conf import Settings
from django_safe_init.core import attempts
from django_safe_init.core.attempts import repeat
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import ConnectionEnded
from django_safe_init.exceptions import LockLost, ReadOnlyServer, WaitTimeout

LOST, STANDBY = LockLost("the session is gone"), ReadOnlyServer("a standby")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses that were made, without their jitter; none takes time."""
    made: list[float] = []
    monkeypatch.setattr(attempts, "sleep", made.append)
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    return made


def sequence(*results: Any) -> Callable[[], Any]:
    """Return a function that raises or returns the results, one each time."""
    left = list(results)

    def attempt() -> Any:
        result = left.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    return attempt


def run(*results: Any, seconds: float | None = None, **settings: Any) -> Any:
    attempt = sequence(*results)
    return repeat(
        attempt, Settings(**settings), Deadline(seconds), print, "the leader lock"
    )


def test_a_read_only_server(pauses) -> None:
    """The attempts are made with the pauses of CONNECT_ATTEMPTS."""
    assert run(STANDBY, STANDBY, STANDBY, "ready") == "ready"
    assert pauses == [0.5, 1, 2]


def test_it_stays_read_only(pauses) -> None:
    """After the last attempt the error is raised."""
    with pytest.raises(ReadOnlyServer, match="a standby"):
        run(STANDBY, STANDBY, STANDBY, connect_attempts=3)
    assert pauses == [0.5, 1]


def test_the_attempts_were_made(pauses) -> None:
    """An error that already is the last attempt's is not repeated."""
    with pytest.raises(ReadOnlyServer):
        run(ReadOnlyServer("no primary", is_final=True), "ready")
    assert pauses == []


def test_the_deadline(pauses) -> None:
    """After the deadline a read-only server is not tried again."""
    with pytest.raises(ReadOnlyServer):
        run(STANDBY, "ready", seconds=0)


def test_losses(pauses) -> None:
    """After the first loss the next attempt begins at once, later ones after a pause."""
    assert run(LOST, ConnectionEnded("gone"), "ready") == "ready"
    assert pauses == [0, 0.5]


def test_too_many_losses(pauses) -> None:
    """More than RESTARTS losses end with the last one's text."""
    with pytest.raises(LockLost) as caught:
        run(LOST, LOST, restarts=1)
    assert str(caught.value) == (
        "Lost the leader lock 2 times, the last time: the session is gone"
    )


def test_a_loss_after_a_switchover(pauses) -> None:
    """A loss begins the attempts at a read-only server anew."""
    assert run(STANDBY, STANDBY, LOST, STANDBY, "ready", connect_attempts=3) == "ready"
    assert pauses == [0.5, 1, 0, 0.5]


def test_another_error(pauses) -> None:
    """Any other error is raised at once."""
    with pytest.raises(WaitTimeout):
        run(WaitTimeout(), "ready")
