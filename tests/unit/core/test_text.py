"""Durations, and long texts on one line."""

from __future__ import annotations

import pytest

from django_safe_init.core.text import format_duration, one_line, shorten


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
    """Short durations are exact, and long durations are readable."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "short"),
    [("a\n  b", "a b"), ("x" * 10, "x" * 10), ("x" * 11, "xxxxxxx...")],
)
def test_shorten(text, short) -> None:
    """A short text has one line and at most the given length."""
    assert shorten(text, 10) == short


def test_one_line() -> None:
    """An error of several lines becomes one."""
    assert one_line(ValueError("first\n  second\n")) == "first second"
