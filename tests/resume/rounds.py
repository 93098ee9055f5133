"""One round: apply a generated migration, kill the processes, and compare with plain Django."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fork_server import Program
from tests.resume.engines import OWN, Engine
from tests.resume.plans import kinds
from tests.resume.steps import Kill, Plan, render
from tests.support import PATIENCE, Records, wait_until

PROJECT = Path(__file__).parent / "project"
FORWARDS, BACK = ("safe_migrate",), ("migrate", "shop", "0001")
STOCK, STOCK_BACK = ("migrate",), BACK
NAME = "0002_generated"
KILLED = -9
#: After this many deaths in a row without progress a build counts as failed.
_MOST_WITHOUT_PROGRESS = 2
_STRIKES = "times in a row"
_PROGRESS = f"SELECT count(*) FROM {OWN}_operation WHERE kind = 'progress'"
_DONE = (
    f"SELECT count(*) FROM {OWN}_operation WHERE migration = 'shop.{NAME}'"
    " AND state = 'done' AND kind IN ('operation', 'statement', 'deferred')"
)
#: Bytecode is kept, because each round imports the same modules several times.
_LEFT_OUT = ("DB_INIT_MODE", "PYTHONDONTWRITEBYTECODE")

Point = tuple[str, int]


class RefusedPlan(Exception):
    """Plain Django cannot run the migration, so the round says nothing about the package."""


class Wrong(Exception):
    """The interrupted migration ended in another way than the uninterrupted one."""


@dataclass
class Attempt:
    """A process that has ended."""

    code: int
    points: list[Point]
    output: str

    @property
    def killed(self) -> bool:
        return self.code == KILLED


@dataclass
class Result:
    """The outcome of one round."""

    scenario: str
    #: The point and the kind of operation of each death.
    deaths: list[tuple[str, str]] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    refused: str = ""
    error: str = ""
    #: How often a start was refused after deaths in a row.
    strikes: int = 0

    @property
    def fault(self) -> str:
        """Return the fault with the deaths before it; empty without one."""
        refused = f"{self.strikes} starts refused because of deaths in a row"
        fault = self.error or (refused if self.strikes else "")
        deaths = [f"death: {point}, {kind}" for point, kind in self.deaths]
        return "\n".join([self.scenario, *deaths, fault]) if fault else ""


class Site:
    """The base database of an engine, and the folders of migrations."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self._open = ExitStack()
        self._bases: dict[str, Any] = {}

    def __enter__(self) -> Site:
        steps = self.write("base", {})
        base = self._open.enter_context(self.engine.database())
        self.expect(FORWARDS, base, steps)
        self.base = base
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    def write(self, name: str, files: dict[str, str]) -> Path:
        """Write a folder with the first migration and these, and return it."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        package = folder / "steps"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        shutil.copyfile(PROJECT / "initial.py", package / "0001_initial.py")
        for file, source in files.items():
            (package / f"{file}.py").write_text(source)
        return folder

    def run(
        self,
        arguments: Sequence[str],
        database: Records,
        steps: Path,
        *,
        stock: bool = False,
        counted: bool = False,
        kill: str = "",
    ) -> Attempt:
        """Run `manage.py` to its end; a `stock` process is plain Django."""
        points = self.folder / "points"
        points.unlink(missing_ok=True)
        environment = {
            **{key: value for key, value in os.environ.items() if key not in _LEFT_OUT},
            "RESUME_DATABASE": json.dumps(database.settings()),  # type: ignore[attr-defined]
            "RESUME_STEPS": str(steps),
            "RESUME_KILL": kill,
            "RESUME_POINTS": str(points) if counted or kill else "",
            **({"DB_INIT_MODE": "off"} if stock else {}),
        }
        command = [sys.executable, str(PROJECT / "manage.py"), *arguments]
        output = self.folder / "output"
        with output.open("wb") as file:
            process = Program(command, environment, file.fileno(), file.fileno())
        wait_until(lambda: process.poll() is not None, PATIENCE, output.read_text)
        assert process.returncode is not None
        lines = points.read_text().splitlines() if points.exists() else []
        passed = [
            (kind, int(number)) for kind, number in (each.split("\t") for each in lines)
        ]
        return Attempt(process.returncode, passed, output.read_text())

    def expect(
        self, arguments: Sequence[str], database: Records, steps: Path, **options: Any
    ) -> Attempt:
        """Run `manage.py`; raise `RefusedPlan` or `Wrong` if it fails."""
        attempt = self.run(arguments, database, steps, **options)
        if attempt.code:
            kind = RefusedPlan if options.get("stock") else Wrong
            raise kind(
                f"{' '.join(arguments)} exited {attempt.code}:\n{attempt.output}"
            )
        return attempt


class Round:
    """A plan on databases of its own."""

    def __init__(self, site: Site, plan: Plan, name: str) -> None:
        self.site = site
        self.engine = site.engine
        self.plan = plan
        self.name = name
        self.result = Result(plan.scenario, kinds=kinds(plan))
        self._kills = list(plan.kills)
        self._without_progress = 0

    def play(self) -> Result:
        """Return the outcome, with the difference from plain Django as its error."""
        self.steps = self.site.write(self.name, {NAME: self.plan.source()})
        try:
            with ExitStack() as self._open:
                self.plain, self.measured, self.victim = (self._new() for _ in range(3))
                self._play()
        except RefusedPlan as exc:
            self.result.refused = str(exc)
        except (Wrong, AssertionError) as exc:
            self.result.error = str(exc)
        if not self.result.error:
            shutil.rmtree(self.site.folder / self.name)
        return self.result

    def _play(self) -> None:
        self._stock(STOCK)
        if self.plan.scenario in ("forwards", "turned back"):
            self._forwards(turns=self.plan.scenario == "turned back")
        else:
            self._backwards(turns=self.plan.scenario == "turned forwards")

    # The ways through the migration

    def _forwards(self, *, turns: bool) -> None:
        points = self._measure(FORWARDS)
        if not turns:
            self._interrupt(FORWARDS, points)
        elif self._kill_once(FORWARDS, points):
            finished = self._finished()
            if self._is_recorded():
                finished = len(self.plan.steps)
            self._replay_turned_back(finished)
            self._interrupt(BACK, points)
        self._compare(turned=turns)

    def _backwards(self, *, turns: bool) -> None:
        self._stock(STOCK_BACK)
        self._expect(FORWARDS)
        self.site.expect(FORWARDS, self.measured, self.steps)
        points = self._measure(BACK)
        if not turns:
            self._interrupt(BACK, points)
        elif self._kill_once(BACK, points):
            undone = self._finished()
            if not self._is_recorded():
                undone = len(self.plan.steps)
            self._replay_turned_forwards(undone)
            self._interrupt(FORWARDS, points)
        self._compare(turned=turns)

    def _replay_turned_back(self, finished: int) -> None:
        """Let plain Django apply only the finished operations, and undo them."""
        self.plain = self._new()
        part = render(self.plan.steps[:finished])
        steps = self.site.write(f"{self.name}-part", {NAME: part})
        self._stock(STOCK, steps)
        self._stock(STOCK_BACK, steps)

    def _replay_turned_forwards(self, undone: int) -> None:
        """Let plain Django undo only the last operations, as a migration, and do them again."""
        self.plain = self._new()
        self._stock(STOCK)
        at = len(self.plan.steps) - undone
        first, last = self.plan.steps[:at], self.plan.steps[at:]
        files = {NAME: render(first), "0003_rest": render(last, NAME)}
        steps = self.site.write(f"{self.name}-part", files)
        self.site.expect(
            ("migrate", "shop", "0003", "--fake"), self.plain, steps, stock=True
        )
        self._stock(("migrate", "shop", "0002"), steps)
        self._stock(STOCK, steps)
        self.plain.rows("DELETE FROM django_migrations WHERE name = '0003_rest'")

    def _new(self) -> Any:
        return self._open.enter_context(self.engine.database(self.site.base))

    # Processes

    def _stock(self, arguments: Sequence[str], steps: Path | None = None) -> None:
        self.site.expect(arguments, self.plain, steps or self.steps, stock=True)

    def _expect(self, arguments: Sequence[str]) -> None:
        """Run `manage.py` on the victim; after a refusal because of strikes, once more."""
        attempt = self.site.run(arguments, self.victim, self.steps)
        if attempt.code and _STRIKES in attempt.output:
            self.result.strikes += 1
            attempt = self.site.run(arguments, self.victim, self.steps)
        if attempt.code:
            raise Wrong(
                f"{' '.join(arguments)} exited {attempt.code}:\n{attempt.output}"
            )

    def _measure(self, arguments: Sequence[str]) -> list[Point]:
        """Return the points of an uninterrupted run."""
        return self.site.expect(
            arguments, self.measured, self.steps, counted=True
        ).points

    def _interrupt(self, arguments: Sequence[str], points: list[Point]) -> None:
        """Kill processes as the plan says, and let the last one finish."""
        left = Counter(kind for kind, _ in points)
        while self._kills and self._without_progress < _MOST_WITHOUT_PROGRESS:
            attempt = self._attempt(arguments, left)
            if not attempt.killed:
                break
            left = (left - Counter(kind for kind, _ in attempt.points)) or left
        self._expect(arguments)

    def _kill_once(self, arguments: Sequence[str], points: list[Point]) -> bool:
        return self._attempt(arguments, Counter(kind for kind, _ in points)).killed

    def _attempt(self, arguments: Sequence[str], left: Counter[str]) -> Attempt:
        """Start a process that dies at one of the points that are left."""
        kill = chosen(self._kills.pop(0), left, len(self._kills) + 1)
        before = self._runs_with_progress()
        attempt = self.site.run(arguments, self.victim, self.steps, kill=kill)
        if attempt.killed:
            kind, number = attempt.points[-1]
            step = (
                self.plan.steps[number - 1].kind if number else "outside of operations"
            )
            self.result.deaths.append((kind, step))
            self.engine.settle(self.victim)
            progress = self._runs_with_progress() > before
            self._without_progress = 0 if progress else self._without_progress + 1
        elif attempt.code and _STRIKES in attempt.output:
            self.result.strikes += 1
            return self._attempt(arguments, left) if self._kills else attempt
        elif attempt.code:
            raise Wrong(
                f"{' '.join(arguments)} exited {attempt.code}:\n{attempt.output}"
            )
        return attempt

    # The database

    def _runs_with_progress(self) -> int:
        return (
            int(self.victim.value(_PROGRESS))
            if self.victim.has_table(f"{OWN}_operation")
            else 0
        )

    def _finished(self) -> int:
        return int(self.victim.value(f"{_DONE} AND kind = 'operation'"))

    def _is_recorded(self) -> bool:
        return f"shop.{NAME}" in self.victim.applied_counts()

    def _log(self) -> Counter[str]:
        return Counter(
            row["text"] for row in self.victim.rows("SELECT text FROM shop_log")
        )

    def _compare(self, *, turned: bool) -> None:
        """Raise `Wrong` if schema, rows or the journal are not as they should be."""
        self.engine.settle(self.victim)
        differences = difference(
            self.engine.schema(self.plain), self.engine.schema(self.victim)
        )
        expected, found = self.engine.rows(self.plain), self.engine.rows(self.victim)
        if turned:
            differences += _log_faults(self.plan, self._log(), self._is_recorded())
            expected["shop_log"] = _repeatable(expected["shop_log"])
            found["shop_log"] = _repeatable(found["shop_log"])
        for table in sorted({*expected, *found}):
            differences += difference(expected.get(table, []), found.get(table, []))
        left = self.victim.rows(
            f"SELECT * FROM {OWN}_operation WHERE kind <> 'progress'"
        )
        differences += [f"left in the journal: {row}" for row in left]
        if differences:
            raise Wrong("\n".join(differences))


def chosen(kill: Kill, left: Counter[str], kills: int) -> str:
    """Return a kind of point and an occurrence, such that some are left for the next kills.

    Half of the choices give each kind the same chance, the others each point.
    """
    names = sorted(left) if kill.kind % 2 else sorted(left.elements())
    kind = names[kill.kind // 2 % len(names)]
    return f"{kind}:{1 + kill.occurrence % -(-left[kind] // kills)}"


def difference(expected: Sequence[str], found: Sequence[str]) -> list[str]:
    lines = difflib.unified_diff(expected, found, "plain", "resumed", lineterm="", n=1)
    return list(lines)


def _repeatable(rows: Sequence[str]) -> list[str]:
    """Return the rows that an operation writes once, also if it is repeated."""
    return [row for row in rows if "once " in row]


def _log_faults(plan: Plan, log: Counter[str], is_recorded: bool) -> list[str]:
    """Return the exact operations that were not done and undone alternately.

    Statements of a list may be undone although they were never done.
    """
    faults = []
    for step in plan.steps:
        for text in step.exact:
            done, undone = log[text], log[f"-{text}"]
            surplus = done - undone - is_recorded
            if undone > 1 or done > 2 or abs(surplus) > step.is_list:
                faults.append(f"{step.kind} {text}: {done} times done, {undone} undone")
    return faults
