"""Signal handlers of the commands."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace
from unittest import mock

import pytest

from django_safe_init.core import signal_handling
from django_safe_init.core.cancellation import CancellationToken, check
from django_safe_init.core.signal_handling import Interrupted, interruptible


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_an_exception(number) -> None:
    """SIGTERM and SIGINT raise `Interrupted`, which has the shell's exit code."""
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, interruptible():
        signal.raise_signal(number)
    assert caught.value.exit_code == 128 + number
    assert str(caught.value) == f"ended by {number.name}"
    assert signal.getsignal(number) is before


def test_a_second_signal_does_not_interrupt_the_cleanup() -> None:
    """The handler ignores signals during the cleanup."""
    with interruptible():
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)


def test_a_later_signal_counts_again(monkeypatch) -> None:
    """A process that caught the first signal can be interrupted again."""
    monkeypatch.setattr(signal_handling, "_CLEANUP_SECONDS", 0)
    with interruptible():
        for number in (signal.SIGTERM, signal.SIGINT):
            with pytest.raises(Interrupted):
                signal.raise_signal(number)


def test_a_signal_after_the_cleanup(monkeypatch) -> None:
    """A signal after the time for the cleanup raises again."""
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(signal_handling, "time", clock)
    with interruptible():
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
        now[0] += 1.9
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] += 0.1
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_swallowed_signal_is_raised_again() -> None:
    """`check` raises a signal again that other code caught."""
    check()
    with interruptible():
        check()
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM"):
            check()
    check()


def test_other_threads_have_no_signals() -> None:
    """Outside the main thread, where Python allows no handler, the handlers stay."""
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def enter() -> None:
        with interruptible():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_forked_child_ends_by_the_signal() -> None:
    """A child that a migration forked dies of the signal and does not unwind the stack."""
    ready, here = os.pipe()
    with interruptible():
        child = os.fork()
        if child == 0:
            os.write(here, b"!")
            while True:  # no signal is lost between two short waits
                signal.sigtimedwait([], 0.01)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    os.close(ready)
    os.close(here)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_a_child_takes_the_default() -> None:
    """The handler restores the default in a forked child, and sends the signal again."""
    with interruptible():
        handler = signal.getsignal(signal.SIGTERM)
        with (
            mock.patch("os.getpid", return_value=-1),
            mock.patch("os.kill") as kill,
            mock.patch("signal.signal") as restore,
        ):
            handler(signal.SIGTERM, None)
    restore.assert_called_once_with(signal.SIGTERM, signal.SIG_DFL)
    kill.assert_called_once_with(-1, signal.SIGTERM)


def test_nothing_to_cancel() -> None:
    """A registered connection that is closed has no statement to cancel."""

    class Closed:
        connection = None

        def __init__(self) -> None:
            self.execute_wrappers: list[object] = []

    closed = Closed()
    interruption = CancellationToken()
    interruption.register(closed, lambda raw: pytest.fail("there is none"))
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    threading.Timer(0.2, over.set).start()
    interruption.cancel_and_join([thread])
    assert not thread.is_alive()
