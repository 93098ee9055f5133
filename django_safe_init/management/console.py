"""Output of the commands: streams, terminals, tables and lists."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TextIO, cast

from django.core.management.base import CommandError, OutputWrapper

from django_safe_init.core.text import (
    escape,
    first_line,
    first_of,
    format_duration,
    mark_lines,
    printable,
    printable_hint,
    printable_lines,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from django_safe_init.core.records import RunRow
    from django_safe_init.initialization.plan import PlannedStep
    from django_safe_init.validation import ValidationReport

HEADINGS = ("run", "started", "took", "outcome", "done", "command", "leader", "error")
_RIGHT_ALIGNED = frozenset({"run", "took", "done"})
_STYLES = {"ready": "green", "failed": "red", "open": "yellow"}


# Streams

#: The last file descriptor of a standard stream.
_STANDARD_ERROR = 2


class PrintableOutput(OutputWrapper):
    """A command's stream, whose lines are made printable before they get a style."""

    def write(  # type: ignore[override]  # typeshed: the base is a TextIOBase
        self,
        msg: str = "",
        style_func: Callable[[str], str] | None = None,
        ending: str | None = None,
    ) -> None:
        """Write the lines. A character that the stream cannot encode is escaped."""
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        super().write(escape(printable_lines(str(msg)), encoding), style_func, ending)


class PrintableStream:
    """Descriptor that makes every stream of a command a `PrintableOutput`.

    Django assigns the streams in two places: when it creates and when it executes a command.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, command: Any, owner: type | None = None) -> PrintableOutput:
        output: PrintableOutput = command.__dict__[self._name]
        return output

    def __set__(self, command: Any, stream: OutputWrapper) -> None:
        command.__dict__[self._name] = PrintableOutput(
            cast(TextIO, stream._out), stream.ending
        )


def open_closed_streams() -> None:
    """Replace each standard stream that was closed when Python started, for which it has None.

    The new stream discards its text. It keeps files and connections off the file descriptor,
    and the command after `--` inherits it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest free descriptor: the stream's own, unless something else is open there.
            null = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(null, null <= _STANDARD_ERROR)
            stream = open(null, mode, errors="replace", closefd=False)  # noqa: SIM115  (kept)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


#: The error handlers of a standard output that cannot print each character.
_FAILING_HANDLERS = ("strict", "surrogateescape")


def escape_unencodable() -> None:
    """Let standard output escape a character that its encoding lacks, as standard error does.

    Libraries, Django and the project's migrations print, too.
    """
    if getattr(sys.stdout, "errors", "") in _FAILING_HANDLERS:
        # It may be no file of the interpreter. If it was a file at the start and is a pipe now,
        # Python changes the handler, and fails when it asks for the position in the pipe.
        with contextlib.suppress(AttributeError, OSError):
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # typeshed: TextIO


@contextlib.contextmanager
def printable_uncaught_errors() -> Iterator[None]:
    """Make Python print the traceback of an error that leaves the block with printable lines.

    A project's own `sys.excepthook` is still called.
    """
    try:
        yield
    except Exception:
        sys.excepthook = functools.partial(_print_error, sys.excepthook)
        raise


def _print_error(hook: Callable[..., object], *error: Any) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as buffer:
        hook(*error)
    if buffer.getvalue():
        sys.stderr.write(mark_lines(buffer.getvalue()) + "\n")


def json_line(value: dict[str, Any]) -> str:
    """Return the JSON object on one line, in printable ASCII characters."""
    return json.dumps(value).replace("\x7f", "\\u007f")


def report_to(stream: OutputWrapper, label: str = "") -> Callable[[str], None]:
    """Return a function that writes a line to the stream, after the package's prefix."""

    def report(line: str) -> None:
        for each in printable_hint(line).split("\n"):
            stream.write(f"[safe_init] {label}{each}", style_func=str)
        stream.flush()

    return report


def confirm(question: str, refusal: str, output: OutputWrapper) -> None:
    """Return if the person at the terminal says yes. Raise `CommandError` otherwise.

    `refusal` says in the error that nothing was done.
    """
    if not sys.stdin.isatty():
        raise CommandError(
            f"{refusal}: there is no terminal to confirm it on. Add --noinput."
        )
    output.write(f"{question} [y/N] ", style_func=str, ending="")
    output.flush()
    try:
        answer = input()
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise CommandError(f"{refusal}.")


class JSONOutput:
    """Context manager that reserves standard output for one JSON object.

    All other output of the process and of its children goes to standard error. File descriptor
    1 itself is redirected, which covers `print()` in a migration and programs that it starts.
    """

    def __enter__(self) -> JSONOutput:
        sys.stdout.flush()
        self._stdout = os.dup(1)
        os.dup2(2, 1)
        return self

    def emit(self, value: dict[str, Any]) -> None:
        """Write the object to the real standard output, unless its reader closed the pipe."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._stdout, json_line(value).encode() + b"\n")

    def __exit__(self, *exc_info: object) -> None:
        sys.stdout.flush()
        os.dup2(self._stdout, 1)
        os.close(self._stdout)


def terminal(*, color: bool) -> Console | None:
    """Return a rich console on standard output, which must be a terminal.

    Return None if rich (the extra `cli`) is missing, or if the terminal cannot move its cursor.
    """
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(no_color=None if color else True, highlight=False)
    return None if console.is_dumb_terminal or not console.is_terminal else console


# History


def row(run: RunRow) -> tuple[str, ...]:
    """Return the cells of a run, in the order of `HEADINGS`."""
    cells = (
        str(run.id),
        run.started_at[:19].replace("T", " "),
        format_duration(run.duration_seconds),
        run.result,
        f"{run.done}/{run.total}",
        run.command,
        run.leader,
        first_line(run.error or ""),
    )
    return tuple(map(printable, cells))


def text_table(runs: Sequence[RunRow]) -> str:
    """Return the table of runs as aligned text, without the commands in an error.

    A long error makes its line long.
    """
    return "\n".join(aligned_rows([HEADINGS, *map(row, runs)], _RIGHT_ALIGNED))


def aligned_rows(
    rows: Sequence[Sequence[str]], right_aligned: Collection[str]
) -> Iterator[str]:
    """Yield the rows, the first of which are the headings, as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if heading in right_aligned else cell.ljust(width)
            for heading, cell, width in zip(rows[0], row, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def rich_table(runs: Sequence[RunRow]) -> RenderableType:
    """Return the table of runs for a terminal, followed by their errors."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in HEADINGS[:-1]:
        table.add_column(
            heading,
            justify="right" if heading in _RIGHT_ALIGNED else "left",
            no_wrap=heading != "leader",
            overflow="fold",
        )
    for run in runs:
        *cells, _ = row(run)
        table.add_row(*map(Text, cells), style=_STYLES.get(run.result, ""))
    errors = [Text(f"run {run.id}: {run.error}", "red") for run in runs if run.error]
    return Group(table, *errors)


# Lists

#: Ends a list that is cut.
_SHOW_ALL = "--verbosity 2 shows all"
#: The number of findings of one kind that are shown.
_MAX_FINDINGS = 10


def format_names(title: str, names: Sequence[str], *, show_all: bool) -> Iterator[str]:
    """Yield the lines of a list: one, or with `show_all` a line for each name of a long list."""
    shown, more = first_of(names)
    if not more:
        yield from [f"  {title}: {', '.join(names)}"] if names else []
    elif show_all:
        yield f"  {title} ({len(names)}):"
        yield from (f"    {name}" for name in names)
    else:
        yield f"  {title} ({len(names)}): {', '.join(shown)} and {more} more ({_SHOW_ALL})"


# Findings of a validation


def format_findings(report: ValidationReport, *, show_all: bool) -> Iterator[str]:
    """Yield the lines of a report, grouped by kind, each repair once after its findings.

    Without `show_all` only the first findings of each kind are shown.
    """
    yield f"{report.database}: {_headline(report)}"
    by_kind = groupby(report.findings, lambda each: f"{each.kind} ({each.level})")
    for title, group in by_kind:
        findings = list(group)
        shown = findings if show_all else findings[:_MAX_FINDINGS]
        more = len(findings) - len(shown)
        yield f"\n{title}"
        for repair, same_repair in groupby(shown, lambda each: each.repair):
            yield from (f"  {printable(each.message)}" for each in same_repair)
            yield from (f"    {printable(line)}" for line in repair)
        if more:
            yield f"  and {more} more ({_SHOW_ALL})"


def _headline(report: ValidationReport) -> str:
    if not report.findings:
        return f"{report.tables} tables are what this build's models need"
    errors = sum(each.is_error for each in report.findings)
    warnings = len(report.findings) - errors
    return f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


# Plan


def format_plan(steps: Iterable[PlannedStep]) -> Iterator[str]:
    """Yield the lines of the planned steps, in the format of Django's `migrate --plan`."""
    planned = [f"{step.label}\n    {step.detail}" for step in steps]
    yield "Planned steps:" if planned else "  No planned steps."
    yield from planned
