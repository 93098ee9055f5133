"""The display while a scene runs: live in a terminal, one line for each change in a log."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .observer import Progress
from .standing import Crew, Standing, numbers, standing

REDRAW_SECONDS = 0.1
LINE_SECONDS = 1.0
STYLES = {
    "starting": "default",
    "waiting": "yellow",
    "running": "yellow",
    "ready": "green",
    "exited 0": "green",
    "failed": "red",
    "killed": "red",
}


class View(Protocol):
    """A display that receives the state repeatedly."""

    def __enter__(self) -> View: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(
        self,
        crew: Crew,
        progress: Progress | None,
        note: str,
        below: RenderableType | None = None,
    ) -> None: ...


def make_view(console: Console) -> View:
    """Return the view that fits the output."""
    return (
        LiveView(console)
        if console.is_terminal and not console.is_dumb_terminal
        else PlainView(console)
    )


class LiveView:
    """Redraws one frame and erases it at the end, because the table follows."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn_at = 0.0

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, traceback)

    def show(
        self,
        crew: Crew,
        progress: Progress | None,
        note: str,
        below: RenderableType | None = None,
    ) -> None:
        if time.monotonic() - self._drawn_at < REDRAW_SECONDS:
            return
        self._drawn_at = time.monotonic()
        frame = picture(crew, progress, note)
        if below is not None:
            frame = Group(frame, Text(), below)
        self._live.update(frame, refresh=True)


def picture(crew: Crew, progress: Progress | None, note: str) -> RenderableType:
    """Return one frame. Each line has a fixed place."""
    now = standing(crew, progress)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=10, justify="right")
    grid.add_column()
    if crew.guarded:
        grid.add_row("leads", _leader(crew, now, progress))
        grid.add_row("", _bar(progress))
    for label, members in now.groups.items():
        if members or label != "killed":
            style = STYLES[label] if members else "dim"
            grid.add_row(label, Text(numbers(members) or "nobody", style=style))
    if note:
        grid.add_row("", note)
    grid.add_row("elapsed", Text(f"{crew.elapsed:.1f} s"))
    return Group(Text(), grid)


def _leader(crew: Crew, now: Standing, progress: Progress | None) -> Text:
    if now.leader is None or progress is None:
        return Text("nobody", style="dim")
    text = Text().append(f"{crew.noun} {now.leader.number}", style="bold")
    return text.append(
        f"   run {progress.run}, process {progress.leader_pid}", style="dim"
    )


def _bar(progress: Progress | None) -> RenderableType:
    row = Table.grid(padding=(0, 2))
    row.add_column(width=24)
    row.add_column()
    done, total = (progress.done, progress.total) if progress else (0, 0)
    text = Text(
        f"{done} of {total}" if total else "", no_wrap=True, overflow="ellipsis"
    )
    if progress and total:
        text.append(f"  {progress.doing}", style="dim")
    bar = ProgressBar(
        total or 1, done, 24, complete_style="cyan", finished_style="green"
    )
    row.add_row(bar, text)
    return row


class PlainView:
    """Prints each change with its time, at most one line a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._run = 0
        self._noted = ""
        self._said = ""
        self._said_at = 0.0

    def __enter__(self) -> PlainView:
        self._console.print()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def show(
        self,
        crew: Crew,
        progress: Progress | None,
        note: str,
        below: RenderableType | None = None,
    ) -> None:
        now = standing(crew, progress)
        if now.leader and progress and progress.run != self._run:
            self._run = progress.run
            leader = f"{crew.noun} {now.leader.number} leads"
            self._print(
                crew, f"{leader} (run {progress.run}, process {progress.leader_pid})"
            )
        if note != self._noted:
            self._noted = note
            self._print(crew, note)
        text = summary(now, progress)
        if text != self._said and (
            crew.over or time.monotonic() - self._said_at >= LINE_SECONDS
        ):
            self._print(crew, text)
            self._said, self._said_at = text, time.monotonic()

    def _print(self, crew: Crew, text: str) -> None:
        self._console.print(f"{crew.elapsed:7.1f} s  {text}", soft_wrap=True)
        self._console.file.flush()


def summary(now: Standing, progress: Progress | None) -> str:
    """Return the state in one line."""
    parts = [
        f"{len(members)} {label}" for label, members in now.groups.items() if members
    ]
    if now.leader and progress and progress.total:
        parts.append(f"{progress.done} of {progress.total} done")
        if progress.migration:
            parts.append(f"now {progress.doing}")
    return ", ".join(parts)
