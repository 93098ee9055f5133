"""Define how the status of a database is read."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from django_safe_init.backends.base.statements import (
    COMPLETED_STEPS,
    INTERRUPTED_STEPS,
)
from django_safe_init.core.build import Build
from django_safe_init.core.records import (
    Activity,
    InterruptedStep,
    LeaderSnapshot,
    RunDetail,
    RunRow,
    Snapshot,
)
from django_safe_init.core.step import CompletedStep, completed_step


class BaseReader(ABC):
    """Reads the status tables and `django_migrations` of one database, for one build.

    Every method writes nothing, and holds no lock and no snapshot longer than its query. All
    raise `TablesLocked` while a migration locks the tables they read, and `ConnectionEnded`
    when the connection is lost. A reader is cheap enough to poll.
    """

    @abstractmethod
    def finished_run(self) -> int | None:
        """Return the build's newest run if it ended ready and nothing is missing since.

        This is the fast path of a start with nothing to do: one cheap query. Raises
        `TablesUnreadable` where the tables are missing or may not be read.
        """

    @abstractmethod
    def read(self) -> Snapshot:
        """Return a full snapshot: migrations and steps that are missing, runs, the leader."""

    @abstractmethod
    def peek(self) -> LeaderSnapshot:
        """Return the leader and the newest run; cheaper than `read`."""

    @abstractmethod
    def leader_pid(self) -> int | None:
        """Return the leader's process id, also while the tables are locked; None without one."""

    @abstractmethod
    def history(self, count: int) -> list[RunRow]:
        """Return the newest runs of all builds, newest first."""

    @abstractmethod
    def activity(self) -> Activity:
        """Return the leader's current statement, as far as other sessions can see it."""

    @abstractmethod
    def run_detail(self, run: RunRow, steps: int | None) -> RunDetail:
        """Return the newest `steps` steps of the run (None for no steps), and its followers.

        Raises `TablesUnreadable` where only the steps may not be read.
        """

    @abstractmethod
    def seconds_left(self, run: RunRow, names: Sequence[str]) -> float | None:
        """Return how long the named steps took in earlier runs; None unless all were timed.

        Raises as `run_detail` does.
        """

    @abstractmethod
    def interrupted(self) -> dict[str, InterruptedStep]:
        """Return the non-atomic migrations and steps that earlier leaders did not finish."""

    @abstractmethod
    def completed_steps(self) -> list[CompletedStep]:
        """Return the steps that runs have completed, newest first."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection, if the reader has one of its own."""


class TableReader(BaseReader):
    """Reads with the SQL that all engines share."""

    def __init__(self, alias: str, build: Build, lock_key: str | None) -> None:
        self.alias = alias
        self.lock_key = lock_key or ""
        self.migrations = build.migrations
        self.build = build.fingerprint
        self.steps = build.steps_of(alias)

    @abstractmethod
    def _rows(self, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Return the rows of a statement of `base.statements`."""

    def interrupted(self) -> dict[str, InterruptedStep]:
        rows = self._rows(INTERRUPTED_STEPS, {"lock_key": self.lock_key})
        return {
            name: InterruptedStep.from_row(run, name, backwards, decode_detail(detail))
            for run, name, backwards, detail in rows
        }

    def completed_steps(self) -> list[CompletedStep]:
        rows = self._rows(COMPLETED_STEPS, {"lock_key": self.lock_key})
        return [completed_step(name, decode_detail(detail)) for name, detail in rows]


def decode_detail(detail: Any) -> Any:
    """Return a step's `detail` as a value; not every driver decodes JSON."""
    return json.loads(detail) if isinstance(detail, str) else detail
