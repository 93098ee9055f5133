"""Durations, long texts on one line, and texts that are made printable."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from django_safe_init.core.text import (
    MAX_ERROR_LENGTH,
    MAX_TRACEBACK_LENGTH,
    first_of,
    format_duration,
    mark_lines,
    name_some,
    one_line,
    printable,
    printable_lines,
    printable_traceback,
    shorten,
    stored_traceback,
)


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


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, ""),
        (2, "m1, m2"),
        (5, "m1, m2, m3, m4, m5"),
        (6, "m1, m2, m3 and 3 more"),
        (205, "m1, m2, m3 and 202 more"),
    ],
)
def test_a_long_list(number, text) -> None:
    """Of a long list the first few names and the number of the others are shown."""
    names = [f"m{each + 1}" for each in range(number)]
    assert name_some(names) == text
    shown, more = first_of(names)
    assert len(shown) + more == number


def test_one_line() -> None:
    """An error of several lines becomes one."""
    assert one_line(ValueError("first\n  second\n")) == "first second"


def test_a_long_error() -> None:
    """The text of an error is bounded."""
    assert len(one_line(ValueError("x" * 3 * MAX_ERROR_LENGTH))) == MAX_ERROR_LENGTH
    assert len(one_line(ValueError("\0" * 30 * MAX_ERROR_LENGTH))) == MAX_ERROR_LENGTH
    assert len(printable_traceback(ValueError("x" * 10**6))) < 2 * MAX_ERROR_LENGTH


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain, with a space\xa0and ümläuts, 你好, 🙂", None),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x1b[2J\x00\x7f\x9b", r"\x1b[2J\x00\x7f\x9b"),
        ("\u202eabc\u2066\u200b\ufeff\u3164", r"\u202eabc\u2066\u200b\ufeff\u3164"),
        ("\x85\u2028\u2029", r"\x85\u2028\u2029"),
        ("\ud800 \U000e0041", r"\ud800 \U000e0041"),
    ],
)
def test_printable(text, safe) -> None:
    """A character that is invisible, or moves the cursor, becomes its escape sequence."""
    assert printable(text) == (text if safe is None else safe)
    assert printable(printable(text)) == printable(text)


def test_every_character() -> None:
    """No character of a category that a terminal interprets stays."""
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    left = {unicodedata.category(each) for each in printable(everything)}
    assert not left & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert all(
        len(f"a{each}b".splitlines()) == 1 for each in set(printable(everything))
    )


def test_printable_lines() -> None:
    """Line feeds and tabs stay in a text of several lines."""
    assert printable_lines("a\n\tb\r\x1b\n") == "a\n\tb\\r\\x1b\n"


def test_marked_lines() -> None:
    """A mark before each line tells it from a line that another program writes."""
    assert mark_lines("a\nINFO ready\n") == "| a\n| INFO ready"


@pytest.mark.parametrize("character", ["x", "\0", "\n"])
def test_a_long_traceback(character) -> None:
    """A stored traceback is bounded, and keeps its beginning and its end."""

    def fail() -> None:
        raise ValueError(long + "the end\x1b[2J") from TypeError("first")

    long = character * 3 * MAX_TRACEBACK_LENGTH
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (any text)
        fail()
    text = stored_traceback(caught.value)
    assert len(text) == MAX_TRACEBACK_LENGTH
    assert text.startswith("TypeError: first\n")
    assert "\n... (shortened) ...\n" in text
    assert text.endswith("the end\\x1b[2J")


def test_a_stored_traceback() -> None:
    """A stored traceback has printable lines without a mark."""
    try:
        raise ValueError("no\n\x1b[31mred")
    except ValueError as exc:
        lines = stored_traceback(exc).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2:] == ["ValueError: no", "\\x1b[31mred"]


def test_traceback() -> None:
    """A traceback keeps its lines, each with the mark."""
    try:
        raise ValueError("no\n\x1b[31mred")
    except ValueError as exc:
        lines = printable_traceback(exc).splitlines()
    assert lines[0] == "| Traceback (most recent call last):"
    assert lines[-2:] == ["| ValueError: no", "| \\x1b[31mred"]
    assert all(line.startswith("| ") for line in lines)
