"""The small parts of the commands: arguments, signals, output, and whose `migrate` it is."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from django.core.management import CommandError
from django.core.management.base import OutputWrapper

from django_safe_init.core import signal_handling
from django_safe_init.core.signal_handling import Interrupted, interruptible
from django_safe_init.exceptions import ConfigurationError, WaitTimeout
from django_safe_init.management.console import (
    JSONOutput,
    command_errors,
    report_to,
    terminal,
)
from django_safe_init.management.exec import check_command, split_argv


@pytest.mark.parametrize(
    ("argv", "own", "command"),
    [
        (["m", "safe_migrate"], ["m", "safe_migrate"], []),
        (["m", "--", "a", "--", "b"], ["m"], ["a", "--", "b"]),
        (["m", "--json", "--"], ["m", "--json"], []),
    ],
)
def test_split(argv, own, command) -> None:
    """What stands before the first `--` is ours, the rest is the command."""
    assert split_argv(argv) == (own, command)


def test_require_command() -> None:
    """A program that is not there is refused before any work."""
    check_command([])
    check_command(["sh", "-c", "true"])
    with pytest.raises(
        ConfigurationError, match="There is no command 'no-such-program'"
    ):
        check_command(["no-such-program"])


def test_a_swallowed_signal(monkeypatch) -> None:
    """Once the time for cleaning up is over, another signal ends the process after all."""
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


def test_command_errors() -> None:
    """An error of ours becomes one line with its exit code."""
    with pytest.raises(CommandError, match="too long") as caught, command_errors():
        raise WaitTimeout("too long")
    assert caught.value.returncode == 3
    assert isinstance(caught.value.__cause__, WaitTimeout)


def test_report_to() -> None:
    """A line for a person is marked as ours."""
    stream = io.StringIO()
    report_to(OutputWrapper(stream))("waiting")
    assert stream.getvalue() == "[safe_init] waiting\n"


def test_json_only(capfd, monkeypatch) -> None:
    """Standard output is kept for the object; prints, also of children, go elsewhere."""
    with open(1, "w", closefd=False) as stdout, JSONOutput() as json:
        # pytest's own does not write to descriptor 1.
        monkeypatch.setattr(sys, "stdout", stdout)
        print("from Python")
        subprocess.run(["sh", "-c", "echo from a child"], check=True, timeout=10)
        json.emit({"a": 1})
        stdout.flush()
    os.write(1, b"afterwards\n")
    out, err = capfd.readouterr()
    assert out == '{"a": 1}\nafterwards\n'
    assert err == "from a child\nfrom Python\n"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal(monkeypatch) -> None:
    """Rich draws on a terminal, in colors unless they are not wanted."""
    monkeypatch.setattr(sys, "stdout", _Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert not terminal(color=True).no_color
    assert terminal(color=False).no_color


def test_no_colors_in_the_environment(monkeypatch) -> None:
    """NO_COLOR is heard."""
    monkeypatch.setattr(sys, "stdout", _Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal(color=True).no_color


def test_no_live_view(monkeypatch) -> None:
    """Without rich, and in a terminal that cannot move its cursor, there are plain lines."""
    monkeypatch.setattr(sys, "stdout", _Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert terminal(color=True) is None
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert terminal(color=True) is None
