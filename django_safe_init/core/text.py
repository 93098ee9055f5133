"""Format errors and durations as text for people and for storage."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

#: The longest text of an error, in characters. A migration's error can hold megabytes.
MAX_ERROR_LENGTH = 10_000
#: The longest text of a traceback, in characters.
MAX_TRACEBACK_LENGTH = 20_000
#: A list with more items is cut, and this many items of it are shown.
MAX_SHOWN, SHOWN_OF_MANY = 5, 3

#: Control characters, format characters such as bidirectional marks, lone surrogates, separators
#: of lines and paragraphs, and characters without a visible glyph (Unicode's general categories
#: Cc, Cf, Cs, Zl, Zp and its property Default_Ignorable_Code_Point).
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f"
    r"\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    r"\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0"
    r"\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    """Return the text on one line that a terminal, a log and PostgreSQL accept.

    A character that could move the cursor, forge a line, reorder or hide text is replaced by its
    escape sequence in Python. Every text that another program or person may have written passes
    this function before it is printed or logged.
    """
    return _UNPRINTABLE.sub(_escaped, text)


def escape(text: str, encoding: str = "ascii") -> str:
    """Return the text with a Python escape for each character that the encoding lacks."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


class Hint(str):
    """A printable line for a person, and below it each command on a line of its own.

    It stays a hint in the messages of this package's errors and in the column `error`. In an
    f-string it becomes a plain text, whose line feeds are escaped: use `wrap` instead.
    """

    summary: str
    commands: tuple[str, ...]

    def __new__(cls, summary: str, *commands: str) -> Hint:
        lines = [printable(summary), *map(printable, commands)]
        hint = super().__new__(cls, _BEFORE_COMMAND.join(lines))
        hint.summary, hint.commands = lines[0], tuple(lines[1:])
        return hint

    def __getnewargs__(self) -> tuple[str, ...]:  # type: ignore[override]  # for pickle
        return (self.summary, *self.commands)


#: Separates the lines of a hint.
_BEFORE_COMMAND = "\n    "


def with_commands(text: str, commands: Iterable[str], end: str = "") -> str:
    """Return the text, followed by one command, or by each of several on a line of its own.

    `end` is a sentence that follows a single command, and precedes several.
    """
    found = list(dict.fromkeys(commands))
    if len(found) > 1:
        return Hint(f"{text}{end}", *found)
    return f"{text} {''.join(found)}{end}"


def wrap(before: str, text: str, after: str = "") -> str:
    """Return the text between two others; a hint keeps its commands."""
    if isinstance(text, Hint):
        return Hint(f"{before}{text.summary}{after}", *text.commands)
    return f"{before}{text}{after}"


def first_line(text: str) -> str:
    """Return the text without the commands of a hint."""
    return text.summary if isinstance(text, Hint) else text


def printable_hint(text: str) -> str:
    """Return a printable text: the lines of a hint, or one line."""
    return text if isinstance(text, Hint) else printable(text)


def stored_hint(text: str) -> str:
    """Return a text that a hint was stored as. Each line has a bounded length."""
    lines = [shorten(line, MAX_ERROR_LENGTH) for line in text.split(_BEFORE_COMMAND)]
    return Hint(*lines) if len(lines) > 1 else lines[0]


def message_of(error: BaseException) -> str:
    """Return the error's text on one line of bounded length, or its hint."""
    text = str(error)
    return text if isinstance(text, Hint) else one_line(error)


def printable_lines(text: str) -> str:
    """Return the text with each line made printable; its line feeds and tabs stay."""
    return "\n".join(
        "\t".join(map(printable, line.split("\t"))) for line in text.split("\n")
    )


def printable_traceback(error: BaseException) -> str:
    """Return the error's traceback with its lines made printable and marked.

    The mark tells the lines of an error's text from the lines of a log.
    """
    return mark_lines("".join(traceback.format_exception(error)))


def stored_traceback(error: BaseException) -> str:
    """Return the error's traceback as printable lines of bounded length.

    A long traceback loses its middle: its end names the error and the line that raised it.
    """
    return bounded_lines("".join(traceback.format_exception(error)).rstrip("\n"))


def bounded_lines(text: str) -> str:
    """Return at most `MAX_TRACEBACK_LENGTH` characters of the text as printable lines."""
    # Escape sequences make the text longer.
    return _without_middle(printable_lines(_without_middle(text)))


def _without_middle(text: str) -> str:
    if len(text) <= MAX_TRACEBACK_LENGTH:
        return text
    mark = "\n... (shortened) ...\n"
    head = MAX_TRACEBACK_LENGTH // 4
    return text[:head] + mark + text[head + len(mark) - MAX_TRACEBACK_LENGTH :]


def mark_lines(text: str) -> str:
    """Return the text with each line made printable and marked with a leading "| "."""
    lines = text.removesuffix("\n").split("\n")
    return "\n".join(f"| {printable_lines(_cut(line))}" for line in lines)


def _cut(text: str) -> str:
    is_whole = len(text) <= MAX_ERROR_LENGTH
    return text if is_whole else text[:MAX_ERROR_LENGTH] + "..."


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    if code > 0xFF:
        return f"\\u{code:04x}"
    return _SHORT_ESCAPES.get(character, f"\\x{code:02x}")


def one_line(error: BaseException) -> str:
    """Return the error's text on one printable line of bounded length, without commands."""
    return shorten(first_line(str(error)), MAX_ERROR_LENGTH)


def shorten(text: str, length: int = 100) -> str:
    """Return the text on one printable line of at most `length` characters."""
    # A character becomes ten at most, so the rest of a long text need not be escaped.
    line = printable(" ".join(text[: 10 * length].split()))
    is_whole = len(line) <= length and len(text) <= 10 * length
    return line if is_whole else line[: length - 3] + "..."


def name_some(items: Iterable[object]) -> str:
    """Return the items, or the first few of a long list and the number of the others."""
    shown, more = first_of(list(map(str, items)))
    return ", ".join(shown) + (f" and {more} more" if more else "")


def first_of(items: Sequence[T]) -> tuple[Sequence[T], int]:
    """Return the items to show, and the number of items that are left out of a long list."""
    shown = items if len(items) <= MAX_SHOWN else items[:SHOWN_OF_MANY]
    return shown, len(items) - len(shown)


def exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, then the error that it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def format_duration(seconds: float) -> str:
    """Return a duration such as 0.12 s, 12.3 s, 2 min 05 s or 1 h 02 min."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
