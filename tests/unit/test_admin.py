"""Bars of a run's timeline."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from django_safe_init.models import Run, Step

if TYPE_CHECKING:
    from django_safe_init.admin import TimelineBar

START = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def _with_admin(settings: Any) -> None:
    """Install Django's admin, which the module needs when it is imported."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "django.contrib.admin"]


def at(seconds: float | None) -> datetime | None:
    return None if seconds is None else START + timedelta(seconds=seconds)


def run(
    finished: float | None = 10, heartbeat: float = 10, outcome: str | None = "ready"
) -> Run:
    return Run(
        pk=1,
        started_at=START,
        finished_at=at(finished),
        heartbeat_at=at(heartbeat),
        outcome=outcome,
    )


def bar(
    run: Run, start: float, end: float | None, outcome: str | None = "done"
) -> TimelineBar:
    from django_safe_init.admin import timeline

    step = Step(
        run=run, name="x", started_at=at(start), finished_at=at(end), outcome=outcome
    )
    [drawn] = timeline(run, [step])
    return drawn


def test_place_of_a_bar() -> None:
    """A bar starts and ends where its step did, in per cent of the run."""
    drawn = bar(run(), 2.5, 7.5)
    assert (drawn.x, drawn.width) == ("25.00%", "50.00%")
    assert (drawn.offset, drawn.duration) == ("2.50 s", "5.00 s")


def test_short_step_is_visible() -> None:
    """A step of no duration gets a visible bar inside the picture."""
    drawn = bar(run(), 10, 10)
    assert (drawn.x, drawn.width) == ("99.50%", "0.50%")


def test_run_without_duration() -> None:
    """A run of no duration does not cause a division by zero."""
    drawn = bar(run(finished=0), 0, 0)
    assert (drawn.x, drawn.width) == ("0.00%", "0.50%")


def test_open_run() -> None:
    """An open run and its open step last until the leader's last heartbeat."""
    open_run = run(finished=None, heartbeat=8, outcome=None)
    drawn = bar(open_run, 6, None, outcome=None)
    assert (open_run.seconds, open_run.result) == (8, "open")
    assert (drawn.x, drawn.width, drawn.step.result) == ("75.00%", "25.00%", "open")


def test_unfinished_step() -> None:
    """A step that its run left open is unfinished, and lasts until the run's end."""
    drawn = bar(run(outcome="failed"), 5, None, outcome=None)
    assert (drawn.width, drawn.step.result) == ("50.00%", "unfinished")


def test_times_that_do_not_fit() -> None:
    """A step that outlasts its run, or starts before it, is drawn inside the picture."""
    assert bar(run(), 5, 20).width == "100.00%"
    assert bar(run(), -1, 5).x == "0.00%"
