"""`safe_init_status --history`: the last runs as a table, in plain text or for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from django_safe_init.core.records import RunRow
from django_safe_init.core.words import format_duration

if TYPE_CHECKING:
    from rich.console import RenderableType

HEADINGS = ("run", "started", "took", "outcome", "done", "command", "leader", "error")
_RIGHT = frozenset({"run", "took", "done"})
_STYLES = {"ready": "green", "failed": "red", "open": "yellow"}


def row(run: RunRow) -> tuple[str, ...]:
    """A run as a row of the table."""
    return (
        str(run.id),
        run.started_at[:19].replace("T", " "),
        format_duration(run.duration_seconds),
        run.outcome or "open",
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
        table.add_row(*cells, style=_STYLES.get(run.outcome or "open", ""))
    errors = [Text(f"run {run.id}: {run.error}", "red") for run in runs if run.error]
    return Group(table, *errors)
