"""Migrate a package's project, kill the process at random points, and continue.

The end is compared with a run of plain Django: schema and rows. The journal must be empty.
"""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.resume.engines import OWN, Engine
from tests.resume.rounds import Attempt, Wrong, chosen, difference
from tests.resume.steps import Kill

from .contents import Contents
from .project import Project, ProjectFailed

FORWARDS, STOCK = ("safe_migrate",), ("migrate",)
_STRIKES = "times in a row"
_MOST_STRIKES = 3
#: The deaths on one database.
_IN_A_ROW = 10
_SECONDS = 900
_DONE = (
    f"SELECT count(*) FROM {OWN}_operation WHERE state = 'done'"
    " AND kind IN ('operation', 'statement', 'deferred')"
)
_LEFT = f"SELECT * FROM {OWN}_operation WHERE kind <> 'progress'"


@dataclass
class Figures:
    """The result for one package."""

    migrations: int = 0
    journaled: int = 0
    #: Operations, and statements of lists, that have an entry in the journal.
    operations: int = 0
    deaths: Counter[str] = field(default_factory=Counter)
    databases: int = 0
    #: Starts that were refused after three deaths in a row without progress.
    strikes: int = 0
    faults: list[str] = field(default_factory=list)


class KilledPackage:
    """A package whose migrations are killed `kills` times, over several databases."""

    def __init__(
        self,
        project: Project,
        engine: Engine,
        *,
        non_atomic: bool,
        kills: int,
        seed: int,
    ) -> None:
        self.project = project
        self.engine = engine
        self.kills = kills
        self.random = random.Random(seed)
        self.figures = Figures()
        self._environment = {"PACKAGE_NON_ATOMIC": "1"} if non_atomic else {}
        self._death_log: list[str] = []

    def play(self) -> Figures:
        """Return the figures, with each difference from plain Django."""
        try:
            self._play()
        except (Wrong, ProjectFailed) as exc:
            self._fault(str(exc))
        return self.figures

    def _play(self) -> None:
        with ExitStack() as opened:
            new = self.engine.database
            plain = opened.enter_context(new())
            with new() as scratch:
                self._on(scratch).prepare()
            self._expect(plain, STOCK, DB_INIT_MODE="off")
            self._plain = plain
            with new() as measured:
                points = self._measure(measured)
                self._judge(measured)
            while self.figures.deaths.total() < self.kills and not self.figures.faults:
                self._round(new(), points)

    def _measure(self, database: Any) -> Counter[str]:
        attempt = self._expect(database, FORWARDS, counted=True)
        points = Counter(kind for kind, _ in attempt.points)
        self.figures.migrations = len(database.applied_counts())
        self.figures.journaled = points["before all deferred SQL"]
        self.figures.operations = points["before operation"]
        return points

    def _round(self, opened: AbstractContextManager[Any], points: Counter[str]) -> None:
        self._death_log = []
        self.figures.databases += 1
        with opened as victim:
            try:
                self._interrupt(victim, points)
                self._expect_after_strikes(victim)
            except (Wrong, AssertionError) as exc:
                self._fault(str(exc))
            else:
                self._judge(victim)

    def _interrupt(self, victim: Any, points: Counter[str]) -> None:
        left = points
        wanted = min(_IN_A_ROW, self.kills - self.figures.deaths.total())
        for number in range(wanted):
            kill = chosen(self._kill(), left, wanted - number)
            before = self._finished(victim)
            attempt = self._run(victim, FORWARDS, kill=kill)
            if attempt.code and _STRIKES in attempt.output:
                self._strike(attempt)
                attempt = self._run(victim, FORWARDS, kill=kill)
            if not attempt.code:
                return
            if not attempt.killed:
                raise Wrong(f"exited {attempt.code}:\n{attempt.output}")
            self._die(victim, attempt, before)
            left = (left - Counter(kind for kind, _ in attempt.points)) or left

    def _kill(self) -> Kill:
        return Kill(self.random.randrange(10**6), self.random.randrange(10**6))

    def _die(self, victim: Any, attempt: Attempt, before: tuple[int, int]) -> None:
        kind, number = attempt.points[-1]
        self.figures.deaths[kind] += 1
        self.engine.settle(victim)
        progress = self._finished(victim) != before
        self._death_log.append(f"{kind}, operation {number}, progress: {progress}")

    def _finished(self, victim: Any) -> tuple[int, int]:
        """Return the number of recorded migrations, and of finished operations."""
        has_journal = victim.has_table(f"{OWN}_operation")
        done = victim.value(_DONE) if has_journal else 0
        return len(victim.applied_counts()), int(done)

    def _strike(self, attempt: Attempt) -> None:
        """Count a refused start. An operation with a journal is progress, so none follows it."""
        self.figures.strikes += 1
        last = self._death_log[-_MOST_STRIKES:]
        if self._environment and any(each.endswith("True") for each in last):
            raise Wrong(f"a start was refused after progress:\n{attempt.output}")

    def _expect_after_strikes(self, victim: Any) -> None:
        attempt = self._run(victim, FORWARDS)
        if attempt.code and _STRIKES in attempt.output:
            self._strike(attempt)
            attempt = self._run(victim, FORWARDS)
        if attempt.code:
            raise Wrong(f"exited {attempt.code}:\n{attempt.output}")

    # The comparison

    def _judge(self, database: Any) -> None:
        self.engine.settle(database)
        engine = self.engine
        found = difference(engine.schema(self._plain), engine.schema(database))
        expected, rows = (
            Contents(engine, each).texts() for each in (self._plain, database)
        )
        for table in sorted({*expected, *rows}):
            found += difference(expected.get(table, []), rows.get(table, []))
        left = database.rows(_LEFT) if database.has_table(f"{OWN}_operation") else []
        found += [f"left in the journal: {row}" for row in left]
        if found:
            self._fault("\n".join(found))

    def _fault(self, text: str) -> None:
        deaths = [f"death: {each}" for each in self._death_log]
        self.figures.faults.append("\n".join([*deaths, text]))

    # Processes

    def _on(self, database: Any) -> Project:
        backend = self.project.package.backend
        engine = {"ENGINE": backend} if backend else {}
        return replace(self.project, database=database.settings(**engine))

    def _expect(
        self, database: Any, arguments: Sequence[str], **options: Any
    ) -> Attempt:
        attempt = self._run(database, arguments, **options)
        if attempt.code:
            raise Wrong(f"{arguments[0]} exited {attempt.code}:\n{attempt.output}")
        return attempt

    def _run(
        self,
        database: Any,
        arguments: Sequence[str],
        *,
        counted: bool = False,
        kill: str = "",
        **environment: str,
    ) -> Attempt:
        """Run a command of the project to its end; plain Django is never forced."""
        points, output = (self.project.folder / each for each in ("points", "output"))
        points.unlink(missing_ok=True)
        forced = {} if environment else self._environment
        extra = {
            "RESUME_KILL": kill,
            "RESUME_POINTS": str(points) if counted or kill else "",
            **forced,
            **environment,
        }
        with output.open("wb") as file:
            process = self._on(database).start(
                *arguments, "--skip-checks", output=file.fileno(), environment=extra
            )
        try:
            code = process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Wrong(f"not within {_SECONDS} s:\n{_text(output)}") from None
        lines = points.read_text().splitlines() if points.exists() else []
        passed = [(kind, int(at)) for kind, at in (each.split("\t") for each in lines)]
        return Attempt(code, passed, _text(output))


def _text(file: Path) -> str:
    return file.read_text(errors="replace")
