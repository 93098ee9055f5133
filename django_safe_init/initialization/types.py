"""Hold the values that one initialization hands from room to room."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import LostRuns
from django_safe_init.core.states import State, StateMachine

logger = logging.getLogger("django_safe_init")


class Decision(Enum):
    """The next action of a process."""

    #: Return: this process has led a run that succeeded.
    LED = auto()
    #: Return: another process has initialized this build.
    DONE = auto()
    #: Wait: another process holds the leader lock.
    FOLLOW = auto()
    #: Try to take the lock: no process leads, or its leader left work to do.
    CAMPAIGN = auto()


@dataclass(frozen=True)
class SchemaOptions:
    """The work of a run in the schemas of tenants, in a database that has them."""

    #: True if the run migrates the shared schema first.
    shared: bool = True
    #: The schemas to migrate; None for the schemas of all tenants.
    only: tuple[str, ...] | None = None
    #: The number of processes that migrate schemas.
    jobs: int = 1
    #: This many schemas are migrated first, and the others only if these succeed.
    canary: int = 0
    #: True to begin no other schema after the first failure.
    stop_at_first: bool = False
    #: True to read the records of all schemas, whatever the rows of earlier runs say.
    force: bool = False
    #: Runs Django's `migrate` in the active schema, with a target or with options of its own;
    #: None for all migrations.
    migrate: Callable[[], None] | None = None

    @property
    def is_whole(self) -> bool:
        """True for all migrations in all schemas."""
        return self.shared and self.only is None and self.migrate is None


@dataclass(frozen=True)
class MigrateTask:
    """The work of a leader, and how it reports."""

    #: Runs Django's `migrate`, which finds its tracker with `current_listener`.
    migrate: Callable[[], None]
    #: The command's name, for readers of the run's row.
    command: str
    #: True if the work brings the database to this build, not to another target.
    full_target: bool = True
    #: True if a database that is not ready afterwards is an error. Another package's `migrate`
    #: may apply a part on purpose.
    require_ready: bool = True
    #: True if migrations are only recorded, or forgotten, without being applied.
    fake: bool = False
    #: Interrupted migrations that may run again.
    rerun: tuple[str, ...] = ()
    #: The operations with which half-done migrations go on, as `APP.NAME:N`.
    resume: tuple[str, ...] = ()
    #: The work in the schemas of tenants, in a database that has them.
    schemas: SchemaOptions = SchemaOptions()
    #: The app and the migration, or "zero", that a command names; None for all migrations.
    target: tuple[str, str] | None = None
    #: Takes the error that the caller gets, and its cause. Returns the error to log: by default
    #: the cause; None if the caller raises the cause, which Python or a tracker then reports.
    error_to_log: Callable[[BaseException, BaseException], BaseException | None] = (
        lambda error, cause: cause
    )
    #: Takes a line for the person who waits.
    report: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class InitializationOptions:
    """The arguments of one initialization."""

    task: MigrateTask
    database: str = "default"
    #: "self", "external" or "off"; None for the setting.
    mode: str | None = None
    #: The limit of all waiting in seconds; None for the setting `MAX_WAIT`.
    timeout: float | None = None
    #: The limit of all waiting that has begun before; None to begin it with `timeout`.
    deadline: Deadline | None = None
    #: Run the task even if this build is initialized already, and let validation fail on every
    #: error, also one that was there before.
    force: bool = False
    #: False if the task must run even after another leader's success.
    follow_success: bool = True
    #: Runs the system checks, while the lock is held and before any work, with the limit of all
    #: waiting. None: the checks are skipped, or the caller has run them.
    run_checks: Callable[[Deadline], None] | None = None
    #: Seconds for which this process was loading, and could not wait yet.
    seconds_of_loading: float = 0.0
    #: True if the caller has run the system checks.
    checks_passed: bool = False

    @property
    def must_run(self) -> bool:
        """Return True if the task runs even if this build is initialized already."""
        return self.force or bool(self.task.rerun or self.task.resume)


@dataclass(frozen=True)
class Outcome:
    """The end of an initialization for this process. Durations are in seconds."""

    #: "ready", "partial" after single schemas, or the `result` of the error that was raised.
    result: str
    #: "leader", "follower", or "none" where neither was needed.
    role: str
    database: str
    #: The run that was led or followed.
    run: int | None = None
    #: The migrations that this process has applied, in order.
    applied: tuple[str, ...] = ()
    #: Until this process led, or needed to wait no longer.
    waited_seconds: float = 0.0
    duration_seconds: float = 0.0
    error: str | None = None
    #: The schemas of tenants that this process has migrated; None without tenants.
    schemas_migrated: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of `safe_migrate --json`."""
        return {
            "result": self.result,
            "role": self.role,
            "database": self.database,
            "run": self.run,
            "applied": list(self.applied),
            "waited_seconds": round(self.waited_seconds, 3),
            "duration_seconds": round(self.duration_seconds, 3),
            "error": self.error,
            "schemas_migrated": self.schemas_migrated,
        }


@dataclass
class Progress:
    """The progress of one initialization, kept over its restarts."""

    options: InitializationOptions
    machine: StateMachine
    started: float = field(default_factory=time.monotonic)
    role: str = "none"
    run_id: int | None = None
    applied: tuple[str, ...] = ()
    #: The schemas of tenants that were migrated; None before the first one could be.
    schemas_migrated: int | None = None
    #: Until this process led; None while it has not.
    waited: float | None = None
    #: True if the system checks passed for this build: here, or in a leader that left its work
    #: unfinished.
    checks_passed: bool = False
    lost: LostRuns = field(default_factory=LostRuns)

    def __post_init__(self) -> None:
        self.checks_passed = self.options.checks_passed

    def report(self, line: str) -> None:
        """Write a line to the log, and to the person who waits."""
        logger.info("%s: %s", self.options.database, line)
        self.options.task.report(line)

    @property
    def seconds_since_start(self) -> float:
        """Seconds since this initialization, or the process that only serves it, began."""
        return time.monotonic() - self.started + self.options.seconds_of_loading

    def became_leader(self) -> None:
        """Note that the waiting is over: this process leads."""
        self.role = "leader"
        self.waited = time.monotonic() - self.started

    def ready(self, run_id: int | None) -> Outcome:
        """Enter the state "ready", which the run has reached, and return the outcome."""
        self.machine.transition_to(State.READY)
        self.run_id = run_id
        return self.outcome("ready")

    def outcome(self, result: str, error: str | None = None) -> Outcome:
        """Return the outcome as of now."""
        duration = time.monotonic() - self.started
        if result == "ready" and not self.options.task.schemas.shared:
            result = "partial"  # single schemas make no build ready
        return Outcome(
            result=result,
            role=self.role,
            database=self.options.database,
            run=self.run_id,
            applied=self.applied,
            waited_seconds=duration if self.waited is None else self.waited,
            duration_seconds=duration,
            error=error,
            schemas_migrated=self.schemas_migrated,
        )
