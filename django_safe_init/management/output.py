"""What the commands print, and where."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandError, OutputWrapper

from django_safe_init.exceptions import SafeInitError

if TYPE_CHECKING:
    from rich.console import Console


@contextlib.contextmanager
def command_errors() -> Iterator[None]:
    """Turn a `SafeInitError` into a `CommandError` with its exit code: a line, no traceback."""
    try:
        yield
    except SafeInitError as exc:
        raise CommandError(str(exc), returncode=exc.exit_code) from exc


def report_to(stream: OutputWrapper, label: str = "") -> Callable[[str], None]:
    """A function that writes lines for a person, marked as ours."""

    def report(line: str) -> None:
        stream.write(f"[safe_init] {label}{line}", style_func=str)
        stream.flush()

    return report


class JSONOutput:
    """Keeps standard output for one JSON object.

    While entered, whatever this process or its children print goes to standard error: file
    descriptor 1 itself is redirected, so that it holds for `print()` in a migration as for a
    program that one starts.
    """

    def __enter__(self) -> JSONOutput:
        sys.stdout.flush()
        self._stdout = os.dup(1)
        os.dup2(2, 1)
        return self

    def emit(self, value: dict[str, Any]) -> None:
        """Write the object to the real standard output, if anybody still reads it."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._stdout, json.dumps(value).encode() + b"\n")

    def __exit__(self, *exc_info: object) -> None:
        sys.stdout.flush()
        os.dup2(self._stdout, 1)
        os.close(self._stdout)


def terminal(*, color: bool) -> Console | None:
    """Standard output, a terminal, as rich draws on it.

    None without rich (the extra `cli`), and where the terminal cannot move its cursor.
    """
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(no_color=None if color else True, highlight=False)
    return None if console.is_dumb_terminal or not console.is_terminal else console
