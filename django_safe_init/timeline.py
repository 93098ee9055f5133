"""When the steps of a run happened, as bars on one scale. Pure: it reads what it is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django_safe_init.core.text import format_duration
from django_safe_init.models import Run, Step

#: Narrower bars, in per cent of the whole, could not be seen.
MIN_WIDTH = 0.5


@dataclass(frozen=True)
class TimelineBar:
    """A step of a run, and where it lies between the run's start and its end."""

    step: Step
    #: Seconds from the start of the run to the start of the step.
    after_seconds: float
    seconds: float
    #: Of the whole width, in per cent, as attributes of SVG want it in every language.
    x: str
    width: str
    #: The step's outcome; "open", or "unfinished" if the run ended without it.
    result: str

    @property
    def took(self) -> str:
        """How long the step took, for a person."""
        return format_duration(self.seconds)

    @property
    def after(self) -> str:
        """How long after the run's start the step started, for a person."""
        return format_duration(self.after_seconds)


def ended_at(run: Run) -> datetime:
    """The end of the run; of an open one, the last sign of life of its leader."""
    return run.finished_at or run.heartbeat_at


def run_seconds(run: Run) -> float:
    """How long the run took, or how long its leader has been seen at work."""
    return _between(run.started_at, ended_at(run))


def step_seconds(step: Step, run: Run) -> float:
    """How long the step took; one without an end lasted as long as its run."""
    return _between(step.started_at, step.finished_at or ended_at(run))


def run_result(run: Run) -> str:
    """The outcome of the run, or "open"."""
    return run.outcome or "open"


def step_result(step: Step, run: Run) -> str:
    """The outcome of the step; "open", or "unfinished" if the run ended without it."""
    return step.outcome or ("open" if run.outcome is None else "unfinished")


def timeline(run: Run, steps: Iterable[Step]) -> list[TimelineBar]:
    """The steps as bars, in their order."""
    whole = run_seconds(run)
    return [_bar(step, run, whole) for step in steps]


def _bar(step: Step, run: Run, whole: float) -> TimelineBar:
    after, seconds = _between(run.started_at, step.started_at), step_seconds(step, run)
    scale = 100 / whole if whole else 0.0
    width = min(100.0, max(MIN_WIDTH, seconds * scale))
    return TimelineBar(
        step=step,
        after_seconds=after,
        seconds=seconds,
        x=f"{min(after * scale, 100 - width):.2f}%",
        width=f"{width:.2f}%",
        result=step_result(step, run),
    )


def _between(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
