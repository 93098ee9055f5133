"""Leading: take over, do the work, record it, let go."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.backend import RunSession
from django_safe_init.backends.base.lock import Lock
from django_safe_init.backends.base.transaction import MigrationTransaction
from django_safe_init.core.cancellation import raise_cancellation, shield
from django_safe_init.core.progress import use_tracker
from django_safe_init.core.records import MAX_TRANSIENT_FAILURES, LostRuns
from django_safe_init.core.states import State, StateMachine
from django_safe_init.core.step import StepDefinition
from django_safe_init.core.text import one_line, printable
from django_safe_init.exceptions import (
    InitializationFailed,
    LeaderFailed,
    LockLost,
    SafeInitError,
    UnsafeConnection,
    ValidationFailed,
)
from django_safe_init.initialization.interrupted import InterruptedSteps
from django_safe_init.initialization.lock_retry import PartiallyApplied
from django_safe_init.initialization.run_context import MigrateTask, run_context
from django_safe_init.initialization.step_runner import StepRunner
from django_safe_init.initialization.tracker import MigrationTracker
from django_safe_init.validation import log_findings

logger = logging.getLogger("django_safe_init")


class Leader:
    """One tenure: from the lock that was just taken to its release."""

    def __init__(
        self,
        lock: Lock,
        tools: RunSession,
        machine: StateMachine,
        work: MigrateTask,
        lost: LostRuns,
    ) -> None:
        self.lock = lock
        self.tools = tools
        self.recorder = tools.recorder
        self.machine = machine
        self.work = work
        self.lost = lost
        self._tracker: MigrationTracker | None = None
        self._steps: StepRunner | None = None

    @property
    def run(self) -> int:
        """The id of the run, or 0 if none was opened."""
        return self.recorder.run

    def lead(self) -> None:
        """Do the work under the lock, which is free afterwards.

        Raises `LockLost` if leadership, or a connection of the run, was lost: whoever comes
        next does the rest. Raises whatever ended the work otherwise; the run's row says so.
        """
        try:
            self._run()
        except BaseException as exc:
            with suppress(SafeInitError):  # nothing new to whoever handles the reason
                self.lock.release()
            if self.tools.is_lost(exc) and not isinstance(exc, SafeInitError):
                raise LockLost(
                    f"A connection of the run was lost: {one_line(exc)}"
                ) from exc
            raise
        finally:
            self.tools.close()
        self.lock.release()

    def _run(self) -> None:
        self.machine.to(State.CHECKING_SCHEMA)
        self.tools.prepare()
        unfinished = self.tools.unfinished(self.work.rerun)
        reason = self.recorder.open_run(self.work.command, self.lost)
        self.lost.runs.append(self.recorder.run)
        if reason is not None:
            raise LeaderFailed(reason, run=self.recorder.run)
        with (
            self._recorded(),
            use_tracker(self.recorder.loops),
            self.tools.heartbeat(),
        ):
            self.tools.prune(unfinished)
            self._migrate(unfinished)
            self._validate()

    def _migrate(self, unfinished: InterruptedSteps) -> None:
        with self.tools.connections() as connection:
            self.machine.to(State.MIGRATING)
            self.recorder.update(State.MIGRATING, "reading migrations")
            if not self.work.fake:
                unfinished.settle_reversals(connection)
            self._tracker = MigrationTracker(
                connection, self.tools, unfinished, self.work.report
            )
            with (
                self._tracker,
                run_context(self.machine.database, self._tracker),
                raise_cancellation(),
            ):
                self._tracker.steps = len(self._due())
                self._work(self._tracker)
            self._do_steps(connection, self._tracker.transaction, unfinished)

    def _due(self) -> list[StepDefinition]:
        """The steps that this run is to do; none unless it is to make the database ready."""
        build = self.tools.build
        steps = (
            build.steps_of(self.machine.database) if self.work.promises_ready else ()
        )
        records = self.tools.step_records() if steps else []
        return [step for step in steps if step.is_due(records)]

    def _do_steps(
        self,
        connection: BaseDatabaseWrapper,
        transaction: MigrationTransaction,
        unfinished: InterruptedSteps,
    ) -> None:
        due = self._due()
        if not due or self.tools.build.migrations & set(self.tools.missing()):
            return  # which the validation will not let pass
        self._steps = StepRunner(
            connection, transaction, self.tools, unfinished, self.work.report
        )
        # Without a tracker: a `migrate` that a step calls is a part of that step.
        with run_context(self.machine.database, None), raise_cancellation():
            self._steps.do(due)

    def _work(self, tracker: MigrationTracker) -> None:
        try:
            self.work.migrate()
        except SafeInitError as exc:
            # A migration may use this package on another database: that is no error of ours.
            if tracker.at_work and not isinstance(exc, _OWN):
                raise InitializationFailed(self.reason(exc)) from exc
            raise

    def _validate(self) -> None:
        self.machine.to(State.VALIDATING)
        self.lock.verify()
        self.recorder.update(State.VALIDATING)
        missing = self.tools.missing()
        if missing and self.work.promises_ready:
            raise ValidationFailed(
                f"Not applied after `migrate`: {', '.join(missing)}."
            )
        sound = self._is_sound()
        state = State.UNINITIALIZED if missing else State.READY
        whole = self.work.complete and not missing and sound
        self.recorder.finish_run("ready" if whole else "partial", state)
        self.machine.to(state)

    def _is_sound(self) -> bool:
        """Whether the models find what they need. Raises where that was promised."""
        found = self.tools.inspect()
        log_findings(self.machine.database, found.schema)
        if found.errors and self.work.promises_ready:
            raise ValidationFailed(found.summary, findings=found.schema)
        return not found.errors

    @property
    def applied(self) -> tuple[str, ...]:
        """The migrations that this run has finished."""
        return tuple(self._tracker.applied) if self._tracker else ()

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        """Close the run's row with the reason when the work ends with an error."""
        try:
            yield
        except BaseException as exc:
            if isinstance(exc, Exception):
                reason = self.reason(exc)
                logger.info("Run %s: %s", self.recorder.run, reason, exc_info=exc)
            if self._close_run(exc) == "failed" and self._is_lost(exc):
                raise InitializationFailed(
                    f"{MAX_TRANSIENT_FAILURES} times in a row: {self.reason(exc)}"
                ) from exc
            raise

    @property
    def failed_migration(self) -> str | None:
        """The migration, or step, that the run is in, or broke off in."""
        return self._in_hand.current if self._in_hand else None

    @property
    def _in_hand(self) -> MigrationTracker | StepRunner | None:
        return self._steps or self._tracker

    def _close_run(self, exc: BaseException) -> str | None:
        """Returns the outcome that was written, or None if the session is gone."""
        try:
            # A non-atomic step that broke off stays open: what it has done is unknown.
            if self._in_hand and self._in_hand.current_is_atomic:
                self.recorder.finish_step("failed")
            with shield():
                return self.recorder.finish_run(
                    self._outcome(exc), State.ERROR, self.reason(exc)
                )
        except SafeInitError as error:
            logger.info("Run %s is left open: %s", self.recorder.run, error)
            return None

    def reason(self, exc: BaseException) -> str:
        """The error in one line, with the migration it happened in."""
        step = self.failed_migration
        text = printable(one_line(exc))
        if not isinstance(exc, SafeInitError):
            text = f"{type(exc).__name__}: {text}"
        return f"{step}: {text}" if step and step not in text else text

    def _outcome(self, exc: BaseException) -> str:
        if isinstance(exc, KeyboardInterrupt):
            return "interrupted"
        half_done = isinstance(exc, PartiallyApplied)
        if self._is_lost(exc) or (self.tools.is_transient(exc) and not half_done):
            return "transient"
        # A target that was mistyped, or cannot be reached, says nothing about the build.
        return "failed" if self.work.complete else "partial"

    def _is_lost(self, exc: BaseException) -> bool:
        """Whether it was the run that lost a connection, and not some other client of its own."""
        return isinstance(exc, LockLost) or self.tools.is_lost(exc)


#: What this package itself raises while a migration is at work.
_OWN = (InitializationFailed, LockLost, UnsafeConnection)
