"""Format errors and durations as text for people and for storage."""

from __future__ import annotations

from collections.abc import Iterator


def one_line(error: BaseException) -> str:
    """Return the error's text on one line."""
    return " ".join(str(error).split())


def shorten(text: str, length: int = 100) -> str:
    """Return the text on one line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."


def printable(text: str) -> str:
    """Return the text with characters escaped that PostgreSQL rejects: NUL, lone surrogates."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


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
