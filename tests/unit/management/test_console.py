"""Streams, terminals and tables of the commands."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from django.core.management.base import OutputWrapper
from rich.console import Console

from django_safe_init.management.console import (
    HEADINGS,
    JSONOutput,
    open_closed_streams,
    report_to,
    rich_table,
    terminal,
    text_table,
)
from tests.support import PATIENCE
from tests.unit.snapshots import ended_run, run_row

RUNS = [
    run_row(12, duration_seconds=3.21),
    ended_run(9, "failed", duration_seconds=75.0, error="shop.0004: ValueError: no"),
    ended_run(8, "ready", done=14, duration_seconds=0.5, leader="web-10:7"),
]


def test_a_descriptor_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that was closed gets another descriptor if a file has taken its own."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "__stdout__", None)
    open_closed_streams()
    print("discarded \N{SNOWMAN}", flush=True)
    assert sys.__stdout__ is sys.stdout
    number = sys.stdout.fileno()
    assert number > 2
    assert not os.get_inheritable(number)
    os.close(number)


def test_plain() -> None:
    """The table aligns its columns, numbers to the right, and ends a line with the error."""
    assert text_table(RUNS).splitlines() == [
        "run  started                    took  outcome   done  command       leader    error",
        " 12  2026-01-01 00:00:00      3.21 s  open      3/14  safe_migrate  web-1:77",
        "  9  2026-01-01 00:00:00  1 min 15 s  failed    3/14  safe_migrate  web-1:77"
        "  shop.0004: ValueError: no",
        "  8  2026-01-01 00:00:00      0.50 s  ready    14/14  safe_migrate  web-10:7",
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_for_a_terminal(width) -> None:
    """The table fits the terminal's width, and the full errors follow it."""
    output = io.StringIO()
    Console(file=output, width=width).print(rich_table(RUNS))
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    assert all(len(line) <= width for line in lines)
    first, rule, *runs, error = [line.split() for line in lines]
    assert first == [heading for heading in HEADINGS if heading != "error"]
    assert len(rule) == 1
    assert [run[0] for run in runs] == ["12", "9", "8"]
    took, end = ["1", "min", "15", "s"], ["failed", "3/14", "safe_migrate", "web-1:77"]
    assert runs[1] == ["9", "2026-01-01", "00:00:00", *took, *end]
    assert " ".join(error) == "run 9: shop.0004: ValueError: no"


# Streams


def test_report_to() -> None:
    """A reported line has the package's prefix."""
    stream = io.StringIO()
    report_to(OutputWrapper(stream))("waiting")
    assert stream.getvalue() == "[safe_init] waiting\n"


def test_json_output(capfd, monkeypatch) -> None:
    """Standard output has only the object; prints, also of children, go to standard error."""
    with open(1, "w", closefd=False) as stdout, JSONOutput() as json:
        # pytest's own does not write to descriptor 1.
        monkeypatch.setattr(sys, "stdout", stdout)
        print("from Python")
        subprocess.run(["sh", "-c", "echo from a child"], check=True, timeout=PATIENCE)
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
    """The console of a terminal has colors, unless an option turns them off."""
    monkeypatch.setattr(sys, "stdout", _Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert not terminal(color=True).no_color
    assert terminal(color=False).no_color


def test_no_colors_in_the_environment(monkeypatch) -> None:
    """The environment variable NO_COLOR turns the colors off."""
    monkeypatch.setattr(sys, "stdout", _Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal(color=True).no_color


def test_no_console(monkeypatch) -> None:
    """Without rich, or with a terminal that cannot move its cursor, no console is returned."""
    monkeypatch.setattr(sys, "stdout", _Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert terminal(color=True) is None
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert terminal(color=True) is None
