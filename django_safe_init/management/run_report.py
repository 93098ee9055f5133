"""Text of `safe_init_status --run`: one run, its steps and the traceback of its error."""

from __future__ import annotations

from collections.abc import Iterator

from django_safe_init.core.records import RunRow, StepRow
from django_safe_init.core.text import (
    format_duration,
    mark_lines,
    printable,
    printable_hint,
    wrap,
)
from django_safe_init.status import RunReport


def format_run(report: RunReport) -> Iterator[str]:
    """Yield the lines about the run."""
    run = report.run
    yield printable(f"{report.database}: run {run.id} - {run.result}")
    for label, value in _facts(run):
        yield printable_hint(wrap(f"  {label + ':':10} ", value))
    if report.steps:
        yield "  steps:"
        yield from (_step(step, run) for step in report.steps)
    if report.note:
        yield printable(f"  {'steps:':10} {report.note}")
    if report.traceback is not None:
        yield "  traceback:"
        yield mark_lines(report.traceback)
    elif run.error:
        yield f"  {'traceback:':10} none was recorded"


def _facts(run: RunRow) -> Iterator[tuple[str, str]]:
    yield "command", run.command
    yield "leader", run.leader
    yield "started", _moment(run.started_at)
    if run.finished_at:
        yield "finished", _moment(run.finished_at)
    yield "took", format_duration(run.duration_seconds)
    yield "done", f"{run.done} of {run.total}"
    if run.open and run.doing:
        yield "now", run.doing
    if run.error:
        yield "error", run.error


def _moment(time: str) -> str:
    return f"{time[:19].replace('T', ' ')} UTC"


def _step(step: StepRow, run: RunRow) -> str:
    result = step.outcome or ("running" if run.open else "broken off")
    direction = ", backwards" if step.backwards else ""
    took = format_duration(step.seconds)
    return printable(
        f"  {step.position:>5}  {took:>11}  {result:10}  {step.name}{direction}"
    )
