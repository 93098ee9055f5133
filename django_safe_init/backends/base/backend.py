"""What an election and a leader need of an engine, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.lock import Lock
from django_safe_init.backends.base.transaction import MigrationTransaction
from django_safe_init.conf import LockTimeoutPolicy, Settings
from django_safe_init.core.build import Build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.progress import ProgressTracker
from django_safe_init.core.records import (
    Activity,
    Blocker,
    LeaderSnapshot,
    LostRuns,
    RunDetail,
    RunRow,
    Snapshot,
)
from django_safe_init.core.states import State
from django_safe_init.core.step import CompletedStep
from django_safe_init.initialization.interrupted import InterruptedSteps

if TYPE_CHECKING:
    from django_safe_init.backends.postgresql.lock import LockSnapshot
    from django_safe_init.validation import ValidationReport


class BaseReader(Protocol):
    """Reads the two tables and `django_migrations`, for one build.

    Raises `TablesLocked` while a migration keeps readers out, `ConnectionEnded` when there is
    nobody left to ask.
    """

    def finished_run(self) -> int | None:
        """The newest run of this build, if it ended ready and nothing is missing since.

        Raises also `TablesUnreadable`, where it cannot tell.
        """

    def read(self) -> Snapshot:
        """All that is to be known."""

    def glance(self) -> LeaderSnapshot:
        """Who leads, and the newest run."""

    def leader_pid(self) -> int | None:
        """Who leads, also while the tables are locked."""

    def history(self, count: int) -> list[RunRow]:
        """The newest runs of all builds, newest first."""

    def activity(self) -> Activity:
        """What the leader does just now, as far as it can be seen from outside."""

    def surroundings(self, run: RunRow, steps: int | None) -> RunDetail:
        """The newest steps of the run, at most so many (None: do not look), and who waits.

        Raises `TablesUnreadable` where only the steps may not be read.
        """

    def seconds_left(self, run: RunRow, names: Sequence[str]) -> float | None:
        """What these steps of the run may still take; None unless all were timed before.

        Raises as `surroundings` does.
        """

    def close(self) -> None:
        """Give back what it reads with."""


class BaseObserver(Protocol):
    """How a process looks at a database while it waits; see `watch.Watch`."""

    @property
    def alias(self) -> str:
        """The database."""

    @property
    def settings(self) -> Settings:
        """The settings."""

    @property
    def deadline(self) -> Deadline:
        """When all waiting must end."""

    def reader(self) -> BaseReader:
        """A reader on whatever connection there is, or on a new one."""

    def direct_reader(self) -> BaseReader:
        """A reader for who may lead."""

    def end_stalled(self, glance: LeaderSnapshot) -> bool:
        """Whether there was a leader without a sign of life and it has been ended just now.

        `glance` is what was read just now, without a run if the tables could not be read.
        """

    def how_to_end(self, leader_pid: int) -> str:
        """The command that ends the leader, for a person."""

    def pause(self) -> None:
        """Until it is time to look again."""

    def close(self) -> None:
        """Let go of the database."""


class BaseRecorder(Protocol):
    """Writes one run and its steps; see `recorder.Recorder`."""

    run: int
    done: int
    total: int
    loops: ProgressTracker

    def open_run(self, command: str, lost: LostRuns | None = None) -> str | None:
        """Open a run; returns the reason if none may be opened any more."""

    def update(self, state: State, message: str = "") -> None:
        """Say what the run is doing."""

    def start_step(
        self,
        name: str,
        *,
        backwards: bool,
        atomic: bool,
        detail: Any = None,
        kind: str = "migration",
    ) -> None:
        """Mark a migration, or a step, as started."""

    def proof(self) -> LockSnapshot | None:
        """What was seen of the lock when the start of the step was written, if anything."""

    def finish_step(self, outcome: str) -> None:
        """Mark the running step as finished."""

    def finish_run(self, outcome: str, state: State, error: str | None = None) -> str:
        """Close the run; returns the outcome as it was written."""


class BaseLockTimeout(Protocol):
    """How migrations wait for locks, on an engine with many."""

    @property
    def limits(self) -> LockTimeoutPolicy | None:
        """For how long and how often; None for as long as it takes."""

    def limited(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        """While entered, the limit holds for each statement; in a transaction it does anyway."""

    def is_timeout(self, error: BaseException) -> bool:
        """Whether a lock that was not to be had is what caused the error."""

    def blockers(self) -> tuple[Blocker, ...]:
        """Who the migrating session waits for at this moment."""


class RunSession(Protocol):
    """What a leader works with, from the lock that was just taken to its release."""

    @property
    def build(self) -> Build:
        """What is to be there afterwards."""

    @property
    def recorder(self) -> BaseRecorder:
        """Writes the run."""

    @property
    def lock_waits(self) -> BaseLockTimeout | None:
        """How migrations wait for locks; None where there is nothing to say."""

    def prepare(self) -> None:
        """Create the two tables, or add the columns they lack."""

    def unfinished(self, rerun: tuple[str, ...]) -> InterruptedSteps:
        """The non-atomic migrations that earlier leaders did not finish."""

    def step_records(self) -> list[CompletedStep]:
        """The steps that runs have done, newest first."""

    def complete_step(self, connection: BaseDatabaseWrapper) -> None:
        """Record that the running step is done, in the transaction that is open there."""

    def prune(self, unfinished: InterruptedSteps) -> None:
        """Remove the oldest runs, by the setting `HISTORY`."""

    def connections(self) -> AbstractContextManager[BaseDatabaseWrapper]:
        """While entered, Django's connections to the alias belong to the run."""

    def transaction(self, connection: BaseDatabaseWrapper) -> MigrationTransaction:
        """How a migration is done and recorded in one transaction."""

    def verify(self, proof: LockSnapshot | None = None) -> None:
        """Raise `LockLost` unless this process leads."""

    def heartbeat(self) -> AbstractContextManager[None]:
        """While entered, the run's row tells that the leader is alive."""

    def missing(self) -> tuple[str, ...]:
        """The migrations and steps that this build knows and the database has not recorded."""

    def is_lost(self, error: BaseException) -> bool:
        """Whether this error is the loss of a connection of the run, not of another one."""

    def is_transient(self, error: BaseException) -> bool:
        """Whether the error says nothing about the migration: somebody else may have more luck."""

    def inspect(self) -> ValidationReport:
        """What is wrong with the database, with the remedies."""

    def close(self) -> None:
        """Let go of what was opened."""


L = TypeVar("L", bound=Lock)


class BaseBackend(Protocol[L]):
    """One process's way to lead or follow on one database, with locks of one kind."""

    @property
    def eyes(self) -> BaseObserver:
        """How the process looks at the database."""

    def try_lock(self) -> L | None:
        """The leader lock, if it is free. Raises `UnsafeConnection` where it would not exclude."""

    def take_over(self, lock: L) -> None:
        """End whatever an earlier leader left running."""

    def heartbeat(self, lock: L) -> AbstractContextManager[None]:
        """While entered, whoever looks sees that the leader is alive."""

    def tools(self, lock: L) -> RunSession:
        """What to lead with."""
