"""Kill random migrations at random points, and compare their ends with plain Django.

Each line of a failure names the options that repeat its round.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import django
import hypothesis

from example_project.embedded import EmbeddedServer
from tests.resume.engines import Engine, PostgresEngine, SqliteEngine
from tests.resume.plans import generate
from tests.resume.rounds import Result, Round, Site

ENGINES = ("postgresql", "sqlite")


def main() -> int:
    options = parse()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        with opened(options.database, folder) as engine, Site(engine, folder) as site:
            summary = Summary(engine, options.seed)
            rounds = range(options.rounds) if options.only is None else [options.only]
            with suppress(
                KeyboardInterrupt
            ):  # the figures of the finished rounds count
                for number in rounds:
                    plan = generate(options.seed, number, options.database)
                    summary.add(number, Round(site, plan, f"round-{number}").play())
    summary.show()
    return 1 if summary.failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.resume", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=20, metavar="N", help="how many migrations")
    add("--seed", type=int, default=0, metavar="S", help="chooses the migrations")
    add("--database", choices=ENGINES, default=ENGINES[0])
    add("--only", type=int, metavar="ROUND", help="only this round of the seed")
    add("--keep", type=Path, metavar="FOLDER", help="where failed migrations stay")
    return parser.parse_args()


@contextmanager
def opened(name: str, folder: Path) -> Iterator[Engine]:
    """Yield the engine; its server runs in the block."""
    if name == "sqlite":
        yield SqliteEngine(folder)
        return
    with EmbeddedServer(settings={"max_connections": "50"}) as server:
        yield PostgresEngine(server)


class Summary:
    """The results of all rounds."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine = engine
        self.seed = seed
        self.version = engine.version()
        self.rounds = self.refused = self.failed = 0
        self.operations: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()
        self.points: Counter[str] = Counter()

    def add(self, number: int, result: Result) -> None:
        """Count the result, and print a failure."""
        self.rounds += 1
        self.operations.update(result.kinds)
        self.points.update(point for point, _ in result.deaths)
        self.killed.update(kind for _, kind in result.deaths)
        again = f"--database {self.engine.name} --seed {self.seed} --only {number}"
        if result.refused:
            self.refused += 1
            say(f"REFUSED by plain Django: {again}\n{result.refused}")
        elif result.fault:
            self.failed += 1
            say(f"FAILED: {again}\n{result.fault}")

    def show(self) -> None:
        """Print the figures."""
        say(
            f"{self.rounds} rounds, {self.points.total()} kills, {self.failed} failed,"
            f" {self.refused} refused by plain Django\n"
            f"Django {django.__version__}, {self.version}, Python {sys.version.split()[0]},"
            f" Hypothesis {hypothesis.__version__}"
        )
        self._table("rounds with", self.operations)
        self._table("kills in", self.killed)
        self._table("kills", self.points)

    def _table(self, title: str, figures: Counter[str]) -> None:
        for name, figure in sorted(figures.items()):
            say(f"{figure:6} {title} {name}")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
