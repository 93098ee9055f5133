"""`safe_init_status --history` as a table, and durations in words."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from django_safe_init.core.text import format_duration
from django_safe_init.management.console import HEADINGS, rich_table, text_table
from tests.unit.snapshots import ended, run_row

RUNS = [
    run_row(12, duration_seconds=3.21),
    ended(9, "failed", duration_seconds=75.0, error="shop.0004: ValueError: no"),
    ended(8, "ready", done=14, duration_seconds=0.5, leader="web-10:7"),
]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (0.123, "0.12 s"),
        (9.994, "9.99 s"),
        (9.995, "10.0 s"),
        (59.94, "59.9 s"),
        (59.95, "1 min 00 s"),
        (125.4, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (3725, "1 h 02 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_durations(seconds, text) -> None:
    """Short ones are exact, long ones readable."""
    assert format_duration(seconds) == text


def test_plain() -> None:
    """Columns are aligned, numbers to the right; the error ends the line."""
    assert text_table(RUNS).splitlines() == [
        "run  started                    took  outcome   done  command       leader    error",
        " 12  2026-01-01 00:00:00      3.21 s  open      3/14  safe_migrate  web-1:77",
        "  9  2026-01-01 00:00:00  1 min 15 s  failed    3/14  safe_migrate  web-1:77"
        "  shop.0004: ValueError: no",
        "  8  2026-01-01 00:00:00      0.50 s  ready    14/14  safe_migrate  web-10:7",
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_for_a_terminal(width) -> None:
    """A line for each run in the terminal's width, and the errors in full below."""
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
