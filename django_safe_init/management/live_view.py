"""The live view of `safe_init_status --watch` in a terminal; needs rich, the extra `cli`.

`StatusView` is pure: a scene and how old it is make a picture that fits the terminal.
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
from django_safe_init.core.text import format_duration
from django_safe_init.status import Status, StatusDetail, poll_interval, read_detail

_STYLES = {
    "running": "bold yellow",
    "done": "green",
    "faked": "green",
    "failed": "bold red",
    "broken off": "red",
}
_STATE_STYLES = {State.READY: "bold green", State.ERROR: "bold red"}
#: Besides the steps: the table's heading and rule, what is not shown, the cursor's line.
_TABLE_LINES = 4


@dataclass(frozen=True)
class StatusView:
    """A picture of a scene, so many seconds after it was seen."""

    scene: StatusDetail
    elapsed: float = 0.0
    notice: str = ""

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        head = Group(*self._head())
        yield head
        used = len(console.render_lines(head, options, pad=False))
        room = (options.height or console.height) - used - _TABLE_LINES
        if self.scene.steps and room > 0:
            yield from self._steps(room)

    def _head(self) -> Iterator[RenderableType]:
        status, run = self.scene.status, self.scene.status.run
        yield _title(status)
        if run is not None and run.total:
            yield self._progress(run)
        if run is not None and run.open and run.item_done is not None:
            yield _items(run)
        yield self._facts()
        for note in filter(None, (self.scene.note, self.notice)):
            yield Text(note, "yellow")

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
        for name, value in self._named():
            grid.add_row(name, Text(value))
        return grid

    def _named(self) -> Iterator[tuple[str, str]]:
        scene = self.scene
        run, activity = scene.status.run, scene.activity
        if run is None or not run.open:
            yield "status", scene.status.message
        elif not scene.running:
            yield "died", f"{run.leader} in {run.message or run.state}"
        else:
            yield "now", scene.status.message
            yield "leader", self._leader(run)
        if activity is not None and activity.query is not None:
            seconds = format_duration(activity.seconds + self.elapsed)
            yield "statement", f"{seconds}: {_one_line(activity.query)}"
            for blocker in activity.blockers:
                yield "blocked by", str(blocker)
        if scene.followers is not None:
            yield "followers", f"{scene.followers} connected now"

    def _leader(self, run: RunRow) -> str:
        age = format_duration(run.age_seconds + self.elapsed)
        role = f", role {self.scene.role}" if self.scene.role else ""
        return f"{run.leader}, lock held by pid {run.backend_pid}{role}, for {age}"

    def _steps(self, room: int) -> Iterator[RenderableType]:
        steps, run = self.scene.steps, self.scene.status.run
        shown = steps[-room:]
        table = _table()
        for step in shown:
            state = self._state(step)
            table.add_row(
                str(step.position),
                step.name,
                "backwards" if step.backwards else step.kind,
                state,
                format_duration(
                    step.seconds + (self.elapsed if state == "running" else 0)
                ),
                style=_STYLES.get(state, ""),
            )
        yield table
        before, after = shown[0].position - 1, _to_come(run, steps[-1])
        hidden = [
            f"{before} before" if before else "",
            f"{after} to come" if after else "",
        ]
        if before or after:
            yield Text(", ".join(filter(None, hidden)), "dim")

    def _state(self, step: StepRow) -> str:
        if step.outcome is not None:
            return step.outcome
        return "running" if self.scene.running else "broken off"


def _title(status: Status) -> Text:
    title = Text(f"{status.database}: ", "bold")
    title.append(status.state.value, _STATE_STYLES.get(status.state, "bold yellow"))
    if status.run is not None:
        title.append(f", run {status.run.id} of {status.run.command}", "dim")
    return title


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
    grid.add_row(Text(run.items), bar)
    return grid


def _to_come(run: RunRow | None, last: StepRow) -> int:
    return max(0, run.total - last.position) if run is not None and run.open else 0


def _one_line(text: str) -> str:
    short = " ".join(text.split())
    return short if len(short) <= 120 else short[:117] + "..."


class LiveView:
    """A view that redraws itself while it is entered; the last picture stays."""

    def __init__(self, database: str, console: Console) -> None:
        self.database = database
        self._scene: StatusDetail | None = None
        self._notice = "connecting"
        self._live = Live(
            console=console,
            get_renderable=self._picture,
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

    def _picture(self) -> RenderableType:
        scene = self._scene
        if scene is None:
            return Text(f"{self.database}: {self._notice}")
        return StatusView(scene, scene.elapsed, self._notice)

    def read_status(self, reader: BaseReader) -> Status:
        """Look, and show it."""
        self._scene = read_detail(self.database, reader, self._scene)
        self._notice = ""
        return self._scene.status

    def say(self, line: str) -> None:
        """Show the line until the next look."""
        self._notice = line

    def poll_interval(self) -> float:
        """As long as it takes to be no burden."""
        assert self._scene is not None  # a pause follows a look
        return poll_interval(self._scene)
