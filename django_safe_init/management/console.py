"""TODO."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandError, OutputWrapper

from django_safe_init.core.records import RunRow
from django_safe_init.core.text import format_duration
from django_safe_init.exceptions import SafeInitError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from django_safe_init.validation import ValidationReport


def format_findings(found: ValidationReport) -> Iterator[str]:
    """The findings by their kind; a repair follows all that it puts right."""
    yield f"{found.database}: {_headline(found)}"
    by_kind = groupby(found.findings, lambda each: f"{each.kind} ({each.level})")
    for title, findings in by_kind:
        yield f"\n{title}"
        for repair, alike in groupby(findings, lambda each: each.repair):
            yield from (f"  {each.message}" for each in alike)
            yield from (f"    {line}" for line in repair)


def _headline(found: ValidationReport) -> str:
    if not found.findings:
        return f"{found.tables} tables are what this build's models need"
    errors = sum(each.is_error for each in found.findings)
    warnings = len(found.findings) - errors
    return f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


HEADINGS = ("run", "started", "took", "outcome", "done", "command", "leader", "error")


_RIGHT = frozenset({"run", "took", "done"})


_STYLES = {"ready": "green", "failed": "red", "open": "yellow"}


def row(run: RunRow) -> tuple[str, ...]:
    """A run as a row of the table."""
    return (
        str(run.id),
        run.started_at[:19].replace("T", " "),
        format_duration(run.duration_seconds),
        run.result,
        f"{run.done}/{run.total}",
        run.command,
        run.leader,
        run.error or "",
    )


def text_table(runs: Sequence[RunRow]) -> str:
    """The table in aligned text; a long error makes its line long."""
    rows = [HEADINGS, *map(row, runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        cell.rjust(width) if heading in _RIGHT else cell.ljust(width)
        for heading, cell, width in zip(HEADINGS, row, widths, strict=True)
    ]
    return "  ".join(aligned).rstrip()


def rich_table(runs: Sequence[RunRow]) -> RenderableType:
    """The table for a terminal, with the errors below it."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in HEADINGS[:-1]:
        table.add_column(
            heading,
            justify="right" if heading in _RIGHT else "left",
            no_wrap=heading != "leader",
            overflow="fold",
        )
    for run in runs:
        *cells, _ = row(run)
        table.add_row(*cells, style=_STYLES.get(run.result, ""))
    errors = [Text(f"run {run.id}: {run.error}", "red") for run in runs if run.error]
    return Group(table, *errors)


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
