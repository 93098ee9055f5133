"""Measure everything and print the table; exits 1 when a figure is over its limit."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from . import example, starts, waiting
from .project import CommandFailed
from .report import Figure, machine, table, write_json
from .stage import Stage

MEASURES: dict[str, Callable[..., Figure]] = {
    "nothing-to-do": starts.nothing_to_do,
    "nothing-to-do-work": starts.nothing_to_do_work,
    "first-run": starts.first_run,
    "waiters": waiting.many_waiters,
    "waiters-without-slots": waiting.more_waiters_than_slots,
    "takeover": waiting.takeover,
    "takeover-without-slots": waiting.takeover_without_slots,
    "example": example.ten_replicas,
}


def main() -> int:
    options = parse()
    if options.list:
        for name, function in MEASURES.items():
            say(f"{name:24}{function.__doc__}")
        return 0
    signal.signal(signal.SIGTERM, end)
    figures = []
    with Stage() as stage:
        surroundings = machine(stage.version())
        say(surroundings)
        for name in options.only or MEASURES:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            figures.append(measure(name, stage, options.rounds))
    say(table(figures))
    if options.json:
        write_json(options.json, surroundings, figures)
    return 0 if all(figure.ok for figure in figures) else 1


def measure(name: str, stage: Stage, rounds: int | None) -> Figure:
    """What the measure found; one that broke off is over its limit, and the rest goes on."""
    try:
        return MEASURES[name](stage, **({"rounds": rounds} if rounds else {}))
    except (AssertionError, CommandFailed, subprocess.TimeoutExpired) as error:
        return Figure(name, "broke off", "", False, notes=[str(error)])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", choices=MEASURES)
    parser.add_argument("--list", action="store_true", help="name the measures")
    parser.add_argument("--rounds", type=positive, help="instead of each measure's own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample")
    return parser.parse_args()


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def end(number: int, frame: FrameType | None) -> None:
    """End like Ctrl-C does: processes, servers and folders are cleaned up."""
    sys.exit(128 + number)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
