"""The record of termination signals, and the chain of handlers."""

from __future__ import annotations

import runpy
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from django_safe_init.serving.background import termination_signals
from django_safe_init.serving.background.termination_signals import SIGNALS, Termination


@pytest.fixture
def handled() -> Iterator[list[Any]]:
    """The calls of the server's own handlers; afterwards pytest gets its handlers back."""
    calls: list[Any] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: calls.append(number))
    yield calls
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_chain_of_handlers(handled: list[Any], number: int) -> None:
    """`on_first_signal` runs before the server's own handler."""
    termination = Termination()
    termination.install_handlers()
    termination.install_handlers()
    assert (termination.installed, termination.received) == (True, False)
    termination.on_first_signal = lambda: handled.append("first")
    signal.raise_signal(number)
    assert handled == ["first", number]
    assert termination.received


def test_without_anything_to_do(handled: list[Any]) -> None:
    """A signal is recorded although no function is set."""
    termination = Termination()
    termination.install_handlers()
    signal.raise_signal(signal.SIGTERM)
    assert handled == [signal.SIGTERM]
    assert termination.received


def test_handlers_that_the_server_sets_later(handled: list[Any]) -> None:
    """Installing again puts our handler before the server's new one."""
    termination = Termination()
    termination.install_handlers()
    signal.signal(signal.SIGTERM, lambda number, frame: handled.append("later"))
    termination.install_handlers()
    signal.raise_signal(signal.SIGTERM)
    assert handled == ["later"]
    assert termination.received


def test_handlers_that_call_ours(handled: list[Any]) -> None:
    """A project's handler may call ours, which it replaced: each handler runs once."""
    termination = Termination()
    termination.install_handlers()
    ours = signal.getsignal(signal.SIGTERM)
    assert callable(ours)

    def own(number: int, frame: Any) -> None:
        handled.append("own")
        ours(number, frame)

    signal.signal(signal.SIGTERM, own)
    termination.install_handlers()
    termination.on_first_signal = lambda: handled.append("first")
    signal.raise_signal(signal.SIGTERM)
    assert handled == ["first", "own", signal.SIGTERM]


def test_a_server_that_puts_ours_back(handled: list[Any]) -> None:
    """A server may restore our handler, as uvicorn does: the handler before ours then runs."""
    termination = Termination()
    termination.install_handlers()
    ours = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, frame: handled.append("server"))
    termination.install_handlers()
    signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, ours)
    signal.raise_signal(signal.SIGTERM)
    assert handled == ["server", signal.SIGTERM]


def test_a_server_without_a_handler(handled: list[Any], monkeypatch: Any) -> None:
    """A server without a handler dies by the signal."""
    raised: list[Any] = []
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    termination = Termination()
    termination.install_handlers()
    termination.on_first_signal = lambda: raised.append("first")
    with monkeypatch.context() as patch:
        patch.setattr(signal, "raise_signal", raised.append)
        handler = signal.getsignal(signal.SIGTERM)
        assert callable(handler)
        handler(signal.SIGTERM, None)
    assert raised == ["first", signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_that_is_ignored(handled: list[Any]) -> None:
    """An ignored signal stays ignored."""
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    termination = Termination()
    termination.install_handlers()
    assert signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN


def test_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without SIGQUIT the other signals are handled."""
    monkeypatch.delattr(signal, "SIGQUIT")
    signals = runpy.run_path(termination_signals.__file__)["SIGNALS"]
    assert signals == (signal.SIGTERM, signal.SIGINT)


def test_outside_of_the_main_thread(handled: list[Any]) -> None:
    """Outside of the main thread no handler is installed."""
    termination = Termination()
    thread = threading.Thread(target=termination.install_handlers)
    thread.start()
    thread.join()
    assert not termination.installed


def test_in_a_forked_process(handled: list[Any]) -> None:
    """A forked process forgets its parent's signals and `on_first_signal`."""
    termination = Termination()
    termination.install_handlers()
    termination.on_first_signal = lambda: handled.append("first")
    signal.raise_signal(signal.SIGTERM)
    termination.reset()
    assert (termination.installed, termination.received) == (False, False)
    signal.raise_signal(signal.SIGTERM)
    assert handled == ["first", signal.SIGTERM, signal.SIGTERM]
