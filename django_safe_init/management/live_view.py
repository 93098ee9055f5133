"""Live view of `safe_init_status --watch` in a terminal; requires rich (the extra `cli`).

`StatusView` renders a status detail and its age without any input or output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.core.records import RunRow, StepRow
from django_safe_init.core.states import State
from django_safe_init.core.text import (
    first_of,
    format_duration,
    printable_hint,
    shorten,
)
from django_safe_init.status import Status, StatusDetail, poll_interval, read_detail

_STYLES = {
    "running": "bold yellow",
    "done": "green",
    "faked": "green",
    "failed": "bold red",
    "broken off": "red",
}
_STATE_STYLES = {State.READY: "bold green", State.ERROR: "bold red"}
#: Lines besides the steps: the table's heading and rule, the hidden steps, the cursor.
_TABLE_LINES = 4


@dataclass(frozen=True)
class StatusView:
    """Rendering of a status detail that fits the terminal."""

    detail: StatusDetail
    #: Seconds since the detail was read.
    elapsed: float = 0.0
    notice: str = ""

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        head = Group(*self._head())
        yield head
        used = len(console.render_lines(head, options, pad=False))
        room = (options.height or console.height) - used - _TABLE_LINES
        if self.detail.steps and room > 0:
            yield from self._steps(room)

    def _head(self) -> Iterator[RenderableType]:
        status, run = self.detail.status, self.detail.status.run
        yield _title(status)
        if run is not None and run.total:
            yield self._progress(run)
        if run is not None and run.open and run.item_done is not None:
            yield _items(run)
        yield self._facts()
        for note in filter(None, (self.detail.note, self.notice)):
            yield _text(note, "yellow")

    def _progress(self, run: RunRow) -> RenderableType:
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        seconds = run.age_seconds + self.elapsed if run.open else run.duration_seconds
        bar = ProgressBar(total=100, completed=run.progress)
        grid.add_row(f"{run.done} of {run.total}", bar, format_duration(seconds))
        return grid

    def _facts(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True, style="dim")
        grid.add_column(overflow="fold")
        for label, value in self._labeled_facts():
            grid.add_row(label, _text(value))
        return grid

    def _labeled_facts(self) -> Iterator[tuple[str, str]]:
        detail = self.detail
        run, activity = detail.status.run, detail.activity
        if run is None or not run.open:
            yield "status", detail.status.message
        elif not detail.running:
            yield "died", f"{run.leader} in {run.message or run.state}"
        else:
            yield "now", detail.status.message
            yield "leader", self._leader(run)
        if activity is not None and activity.query is not None:
            seconds = format_duration(activity.seconds + self.elapsed)
            yield "statement", f"{seconds}: {shorten(activity.query, 120)}"
            shown, more = first_of(activity.blockers)
            for blocker in shown:
                yield "blocked by", str(blocker)
            if more:
                yield "blocked by", f"{more} more sessions"
        if detail.followers is not None:
            yield "followers", f"{detail.followers} connected now"

    def _leader(self, run: RunRow) -> str:
        age = format_duration(run.age_seconds + self.elapsed)
        role = f", role {self.detail.role}" if self.detail.role else ""
        return f"{run.leader}, lock held by backend {run.backend_pid}{role}, for {age}"

    def _steps(self, room: int) -> Iterator[RenderableType]:
        shown = self.detail.steps[-room:]
        table = _table()
        for step in shown:
            self._add_row(table, step)
        yield table
        before = shown[0].position - 1
        after = _steps_left(self.detail.status.run, shown[-1])
        if before or after:
            hidden = (
                f"{before} before" if before else "",
                f"{after} to come" if after else "",
            )
            yield Text(", ".join(filter(None, hidden)), "dim")

    def _add_row(self, table: Table, step: StepRow) -> None:
        state = self._state(step)
        seconds = step.seconds + (self.elapsed if state == "running" else 0)
        table.add_row(
            str(step.position),
            _text(step.name),
            _text("backwards" if step.backwards else step.kind),
            _text(state),
            format_duration(seconds),
            style=_STYLES.get(state, ""),
        )

    def _state(self, step: StepRow) -> str:
        if step.outcome is not None:
            return step.outcome
        return "running" if self.detail.running else "broken off"


def _title(status: Status) -> Text:
    title = _text(f"{status.database}: ", "bold")
    title.append(status.state.value, _STATE_STYLES.get(status.state, "bold yellow"))
    if status.run is not None:
        title.append(_text(f", run {status.run.id} of {status.run.command}", "dim"))
    return title


def _text(text: str, style: str = "") -> Text:
    """Return the text without markup, on one printable line or the lines of a hint."""
    return Text(printable_hint(text), style)


def _table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, show_edge=False, pad_edge=False)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("step", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("kind", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    return table


def _items(run: RunRow) -> RenderableType:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    bar = (
        ProgressBar(total=run.item_total, completed=run.item_done or 0)
        if run.item_total
        else ""
    )
    grid.add_row(_text(run.items), bar)
    return grid


def _steps_left(run: RunRow | None, last: StepRow) -> int:
    return max(0, run.total - last.position) if run is not None and run.open else 0


class LiveView:
    """Context manager that redraws the status four times a second.

    The last rendering stays on the terminal.
    """

    def __init__(self, database: str, console: Console) -> None:
        self.database = database
        self._detail: StatusDetail | None = None
        #: The detail that was read on the current connection: after a failover, another run may
        #: have the id of a run that was lost.
        self._before: StatusDetail | None = None
        self._notice = "connecting"
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        detail = self._detail
        if detail is None:
            return _text(f"{self.database}: {self._notice}")
        return StatusView(detail, detail.elapsed, self._notice)

    def show_status(self, reader: BaseReader) -> Status:
        """Read the status with its details, show it, and return it."""
        self._detail = read_detail(self.database, reader, self._before)
        self._before = self._detail
        self._notice = ""
        return self._detail.status

    def report(self, line: str) -> None:
        """Show a line about the connection until the next status."""
        self._notice = line
        self._before = None

    def poll_interval(self) -> float:
        """Return the seconds that limit the queries on the database server."""
        assert self._detail is not None  # `show_status` was called before
        return poll_interval(self._detail)
