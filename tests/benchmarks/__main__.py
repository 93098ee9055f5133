"""Measure everything and print the table. Exit with 1 if a figure is over its limit."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from . import (
    batches,
    example,
    operations,
    pools,
    serving,
    starts,
    tenants,
    validating,
    waiting,
)
from .page import page
from .project import REPOSITORY, CommandFailed
from .report import Figure, Results, machine, table, today
from .stage import Stage

MEASURES: dict[str, Callable[..., Figure]] = {
    "nothing-to-do": starts.nothing_to_do,
    "nothing-to-do-work": starts.nothing_to_do_work,
    "first-run": starts.first_run,
    "validation": validating.whole_schema,
    "waiters": waiting.many_waiters,
    "waiters-without-slots": waiting.more_waiters_than_slots,
    "takeover": waiting.takeover,
    "takeover-without-slots": waiting.takeover_without_slots,
    "example": example.ten_replicas,
    "readiness": serving.ready_and_empty,
    "readiness-database-check": serving.ready_and_health_check,
    "middleware": serving.ready_middleware,
    "pools": pools.quick_beside_slow,
    "batches": batches.in_batches,
    "operations": operations.with_a_journal,
    "tenants": tenants.beside_one_process,
    "tenants-parallel": tenants.beside_two_processes,
    "tenants-nothing-to-do": tenants.nothing_to_do,
    "tenants-starts": tenants.many_starts,
    "tenants-curve": tenants.curve,
}


#: The files that `--docs` writes.
PAGES = {
    name: REPOSITORY / "docs" / f"benchmarks.{ending}"
    for name, ending in (("json", "json"), ("plot", "svg"), ("markdown", "md"))
}


def main() -> int:
    options = parse()
    if options.list:
        for name, function in MEASURES.items():
            say(f"{name:24}{meaning(function).splitlines()[0]}")
        return 0
    signal.signal(signal.SIGTERM, end)
    results = Results.read(options.read) if options.read else run(options)
    say(table(results.figures))
    write(results, options)
    return 0 if all(figure.ok for figure in results.figures) else 1


def run(options: argparse.Namespace) -> Results:
    """Run the requested measures."""
    figures = []
    with Stage() as stage:
        surroundings = machine(stage.version())
        say(surroundings)
        for name in options.only or MEASURES:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            figures.append(measure(name, stage, options.rounds))
    return Results(today(), surroundings, figures)


def measure(name: str, stage: Stage, rounds: int | None) -> Figure:
    """Return the figure of a measure. A measure that breaks off counts as over its limit."""
    function = MEASURES[name]
    try:
        figure = function(stage, **({"rounds": rounds} if rounds else {}))
    except (AssertionError, CommandFailed, subprocess.TimeoutExpired) as error:
        figure = Figure(name, "broke off", "", False, notes=[str(error)])
    return dataclasses.replace(figure, meaning=meaning(function))


def meaning(function: Callable[..., Figure]) -> str:
    return inspect.cleandoc(function.__doc__ or "")


def write(results: Results, options: argparse.Namespace) -> None:
    """Write the requested files."""
    if options.json:
        results.write(options.json)
    if options.plot:
        from .plot import plot

        plot(results, options.plot)
    if options.markdown:
        options.markdown.write_text(page(results))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    add = parser.add_argument
    add("--only", metavar="NAME", action="append", choices=MEASURES)
    add("--list", action="store_true", help="name the measures")
    add("--rounds", type=positive, help="instead of each measure's own")
    add(
        "--read", type=Path, metavar="JSON", help="show an earlier run, measure nothing"
    )
    add("--json", type=Path, metavar="FILE", help="write every sample")
    add(
        "--plot", type=Path, metavar="FILE", help="draw the figures, as SVG, PNG or PDF"
    )
    add("--markdown", type=Path, metavar="FILE", help="write a page about the run")
    add("--docs", action="store_true", help="write all three as docs/benchmarks.*")
    options = parser.parse_args()
    if options.docs:
        if options.only or options.rounds:
            parser.error("--docs shows a whole run, without --only and --rounds.")
        vars(options).update(PAGES)
    # Checked before measuring, which takes nine minutes.
    if options.plot and find_spec("matplotlib") is None:
        parser.error("A plot needs matplotlib: pip install -e '.[bench]'")
    return options


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def end(number: int, frame: FrameType | None) -> None:
    """Exit as after Ctrl-C, so that processes, servers and folders are cleaned up."""
    sys.exit(128 + number)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
