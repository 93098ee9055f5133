"""Lead one run: take over, apply the migrations, run the steps, record it, wake the followers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from collections.abc import Set as AbstractSet
from contextlib import closing, contextmanager, suppress
from typing import NamedTuple

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends import open_schemas
from django_safe_init.backends.base.backend import LockingBackend
from django_safe_init.backends.base.lock import Lock, LockWaitTimeout
from django_safe_init.backends.base.observer import BaseObserver
from django_safe_init.backends.base.recorder import BaseRecorder, MissingSchema
from django_safe_init.backends.base.run_session import ErrorKind, RunSession
from django_safe_init.backends.tenants import Tenant, get_tenancy
from django_safe_init.conf import strict_kinds
from django_safe_init.core.cancellation import raise_cancellation, shield
from django_safe_init.core.local_errors import is_local, is_output_lost
from django_safe_init.core.progress import use_tracker
from django_safe_init.core.records import CHECKS_PASSED
from django_safe_init.core.states import State
from django_safe_init.core.step import StepDefinition
from django_safe_init.core.text import (
    message_of,
    name_some,
    one_line,
    stored_traceback,
    wrap,
)
from django_safe_init.exceptions import (
    ConfigurationError,
    DDLLockTimeout,
    InitializationFailed,
    LeaderFailed,
    LockLost,
    SafeInitError,
    UnsafeConnection,
    ValidationFailed,
)
from django_safe_init.initialization.check_failures import (
    ChecksFailed,
    check_errors,
    record_failure,
)
from django_safe_init.initialization.interrupted import InterruptedSteps
from django_safe_init.initialization.lock_retry import PartiallyApplied
from django_safe_init.initialization.receivers import send_pre_migrate
from django_safe_init.initialization.run_context import run_context
from django_safe_init.initialization.step_runner import StepRunner
from django_safe_init.initialization.tracker import MigrationTracker
from django_safe_init.initialization.types import Decision, Progress
from django_safe_init.validation import ValidationReport, log_findings, validate
from django_safe_init.validation.baseline import earlier_differences, without_damage

logger = logging.getLogger("django_safe_init")


class _End(NamedTuple):
    """The outcome of a run, and the state that it leaves."""

    outcome: str
    state: State


class Leader:
    """Leads one run, if the leader lock is free.

    `is_done` is called while the lock is held, and returns True if another leader finished
    the work before.
    """

    def __init__(
        self,
        backend: LockingBackend,
        observer: BaseObserver,
        progress: Progress,
        is_done: Callable[[], bool],
    ) -> None:
        self.backend = backend
        self.context = backend.context
        self.observer = observer
        self.progress = progress
        self.machine = progress.machine
        self.task = progress.options.task
        self.is_done = is_done
        self.tenancy = get_tenancy(self.context.alias)
        self._session: RunSession | None = None
        self._connection_lost = False
        #: The error that ended the open run, and the outcome that was written for it.
        self._cause: BaseException | None = None
        self._outcome_written: str | None = None
        self._tracker: MigrationTracker | None = None
        self._steps: StepRunner | None = None
        #: Keys of the findings that this run did not cause.
        self._baseline: frozenset[str] = frozenset()
        #: Keys of the findings that earlier runs caused, none of which has been repaired.
        self._damage: AbstractSet[str] = frozenset()

    def run(self) -> Decision:
        """Lead a run from its first event to its last one.

        Returns `LED` after a run that succeeded, `DONE` if another leader had finished before,
        and `FOLLOW` if another process holds the lock. Raises `LockLost` if leadership, or a
        connection of the run, was lost: the next leader continues. Raises whatever ended the
        run otherwise; the run's row says so.
        """
        with (
            self._shared_schema(),
            self._translated_errors(),
            self.backend.leadership(self.observer) as lock,  # the lock is taken
        ):
            if lock is None:
                return Decision.FOLLOW
            with self._recorded_check_failure(lock), self.backend.heartbeat(lock):
                self.backend.terminate_predecessors(lock)
                if self.is_done():
                    return Decision.DONE
                self._run_system_checks()
            self.progress.became_leader()
            with self._opened_session(lock) as session:
                self.machine.transition_to(State.CHECKING_SCHEMA)
                self._ensure_tables()
                interrupted = self._read_interrupted_steps()
                self._open_run()
                with self._closed_run(), session.heartbeat():
                    self._expect_schemas()
                    self._take_baseline()
                    self._delete_old_runs(interrupted)
                    with session.connections() as connection:
                        self._migrate(connection, interrupted)
                        self._run_steps(connection, interrupted)
                    end = self._validate()
                    self._migrate_schemas()
                    self._finish(end)
            return Decision.LED  # the lock is released, and the followers are woken

    @contextmanager
    def _shared_schema(self) -> Iterator[None]:
        """Let the block use the shared schema of a database with a schema for each tenant."""
        if self.tenancy is None:
            yield
            return
        shared = Tenant(self.tenancy.shared_schema)
        with self.tenancy.active(connections[self.context.alias], shared):
            yield

    @contextmanager
    def _opened_session(self, lock: Lock) -> Iterator[RunSession]:
        with closing(self.backend.open_run_session(lock)) as session:
            self._session = session
            try:
                yield session
            except BaseException as exc:
                # Only before the lock is released can an engine tell that it was lost.
                self._connection_lost = session.classify(exc) is ErrorKind.LOST
                raise

    @property
    def session(self) -> RunSession:
        """The session of the run, once the run has one."""
        assert self._session is not None
        return self._session

    @property
    def recorder(self) -> BaseRecorder:
        """The recorder of the run."""
        return self.session.recorder

    def _run_system_checks(self) -> None:
        """Run the system checks in the leader only: each may need a connection."""
        run_checks = self.progress.options.run_checks
        if run_checks is None or self.progress.checks_passed:
            return
        with check_errors():
            run_checks(self.context.deadline)
        self.progress.checks_passed = True

    @contextmanager
    def _recorded_check_failure(self, lock: Lock) -> Iterator[None]:
        """Record system checks that failed in the block as a run, which the followers see."""
        try:
            yield
        except ChecksFailed as exc:
            self._record(lock, exc)
            logger.error(
                "%s: failed before its run: %s",
                self.context.alias,
                exc.text,
                exc_info=exc.cause,
            )
            if exc.cause is None:
                raise exc.error from None
            raise InitializationFailed(
                exc.text, run=self.progress.run_id
            ) from exc.cause

    def _record(self, lock: Lock, failure: ChecksFailed) -> None:
        try:
            with closing(self.backend.open_run_session(lock)) as session, shield():
                record_failure(session, self.progress, failure)
        except SafeInitError as exc:
            logger.warning("The failed system checks are not recorded: %s", exc)

    def _ensure_tables(self) -> None:
        """Create the tables, if need be in a schema that a receiver of `pre_migrate` creates."""
        try:
            self.recorder.ensure_tables()
        except MissingSchema:
            send_pre_migrate(self.session, self.context.alias)
            self.recorder.ensure_tables()

    def _expect_schemas(self) -> None:
        """Let the progress of the run count the schemas of tenants from the beginning."""
        if self.tenancy is not None and self._is_whole:
            self.recorder.expected_schemas = open_schemas(
                self.session, self.context.alias, self.tenancy
            ).known()

    def _read_interrupted_steps(self) -> InterruptedSteps:
        is_about_tenants = self.tenancy is not None and not self.task.schemas.shared
        return InterruptedSteps(
            self.session,
            self.context.settings,
            () if is_about_tenants else self.task.rerun,
            self.context.alias,
            () if is_about_tenants else self.task.resume,
        )

    def _open_run(self) -> None:
        """Open the run. Raises `LeaderFailed` if the build has failed too often in a row."""
        if self.progress.checks_passed:
            self.recorder.checks = CHECKS_PASSED
        try:
            reason = self.recorder.open_run(
                self.task.command, self.progress.lost, self.context.settings.release
            )
        finally:
            self.progress.lost.runs.append(self.recorder.run_id)
        if reason is not None:
            # The processes that failed were killed, and could log nothing.
            logger.error(
                "%s: run %s failed: %s",
                self.context.alias,
                self.recorder.run_id,
                reason,
            )
            raise LeaderFailed(reason, run=self.recorder.run_id)

    def _take_baseline(self) -> None:
        """Note the findings that were there before, and store them for the next leader."""
        before = self.session.reader.previous_findings(self.recorder.run_id)
        found = self._differences(before and before.keys)
        self._baseline = without_damage(found, before)
        self._damage = found.keys() - self._baseline
        self.recorder.store_findings(self._baseline)

    def _differences(self, known: Collection[str] | None) -> dict[str, frozenset[str]]:
        return earlier_differences(
            self.context.alias, self.session.introspection(), known
        )

    def _delete_old_runs(self, interrupted: InterruptedSteps) -> None:
        self.recorder.prune(self.context.settings.history, interrupted.runs)

    def _migrate(
        self, connection: BaseDatabaseWrapper, interrupted: InterruptedSteps
    ) -> None:
        self.machine.transition_to(State.MIGRATING)
        self.recorder.update(State.MIGRATING, "reading migrations")
        if not self.task.fake:
            interrupted.complete_reversals(connection)
        self._tracker = tracker = MigrationTracker(
            connection, self.session, interrupted, self.task.report
        )
        with (
            tracker,
            run_context(self.context.alias, tracker),
            raise_cancellation(),
        ):
            tracker.steps = len(self._due_steps())
            half_done = interrupted.half_done
            if self.tenancy is not None and not self.task.schemas.shared:
                return
            if self.task.fake:
                half_done.accept_fake(connection, self.task.target)
            else:
                half_done.prepare(connection, tracker, self.task.target)
            self._call_migrate(tracker)

    def _call_migrate(self, tracker: MigrationTracker) -> None:
        try:
            self.task.migrate()
        except SafeInitError as exc:
            # A migration may use this package on another database: that is its own error.
            if tracker.in_migration and not isinstance(exc, _OWN):
                raise InitializationFailed(self._reason(exc)) from exc
            raise

    def _run_steps(
        self, connection: BaseDatabaseWrapper, interrupted: InterruptedSteps
    ) -> None:
        due = self._due_steps()
        if not due or self.context.build.migrations & set(self._missing()):
            return  # the validation refuses what is missing
        assert self._tracker is not None  # the migrations came first
        self._steps = StepRunner(
            connection,
            self._tracker.transaction,
            self.session,
            interrupted,
            self.task.report,
        )
        # Without a tracker: a `migrate` that a step calls is a part of that step.
        with run_context(self.context.alias, None), raise_cancellation():
            self._steps.run(due)

    def _due_steps(self) -> list[StepDefinition]:
        """Return the steps of this run; none unless it makes the database ready."""
        if not self.task.require_ready:
            return []
        steps = self.context.build.steps_of(self.context.alias)
        completed = self.session.reader.completed_steps() if steps else []
        return [step for step in steps if step.is_due(completed)]

    def _missing(self) -> tuple[str, ...]:
        return self.session.reader.read().missing

    def _validate(self) -> _End:
        """Validate the schema, and return how the run ends unless a tenant's schema fails."""
        self.machine.transition_to(State.VALIDATING)
        self.session.verify()
        self.recorder.update(State.VALIDATING)
        missing = self._missing()
        if missing and self.task.require_ready:
            raise ValidationFailed(self._not_applied(missing))
        self._require_nothing_half_undone()
        faked = self._accept_faked()
        report = self._validate_schema()
        if not missing and report.errors:
            raise ValidationFailed(report.summary, findings=report.schema)
        state = State.UNINITIALIZED if missing else State.READY
        whole = self._is_whole and not missing and not faked
        if whole:
            self.recorder.store_findings(each.key for each in report.schema)
        else:
            self._store_partial_findings()
        return _End("ready" if whole else "partial", state)

    @property
    def _is_whole(self) -> bool:
        """True if the task brings the database to this build, with the schemas of all tenants."""
        has_schemas = self.tenancy is not None
        return self.task.full_target and (not has_schemas or self.task.schemas.is_whole)

    def _migrate_schemas(self) -> None:
        """Migrate the schemas of the tenants, after the shared schema is done and validated."""
        if self.tenancy is None or self.task.schemas.only == ():
            return
        # Imported here to keep the start of other projects fast.
        from django_safe_init.initialization.schemas.run import SchemaRun

        self.machine.transition_to(State.MIGRATING)
        with raise_cancellation():
            run = SchemaRun(self.context, self.session, self.tenancy, self.task)
            try:
                run.run()
            finally:
                before = self.progress.schemas_migrated or 0
                self.progress.schemas_migrated = before + run.migrated
        self.machine.transition_to(State.VALIDATING)

    def _finish(self, end: _End) -> None:
        """Close the run."""
        self.recorder.finish_run(*end)
        self.machine.transition_to(end.state)

    def _require_nothing_half_undone(self) -> None:
        names = self._tracker.half_done.half_undone if self._tracker else []
        if names:
            raise ValidationFailed(
                f"Applied, and some of their operations are undone: {name_some(names)}. To apply "
                "these again, run `safe_migrate`. To undo the others as well, reverse the "
                "migration as before."
            )

    def _accept_faked(self) -> frozenset[str]:
        """Add the findings that `--fake` leaves to the baseline, and return them."""
        if not self.task.fake:
            return frozenset()
        found = self._differences(self._baseline).keys()
        faked = frozenset(found - self._baseline - self._damage)
        self._baseline |= faked
        self.recorder.store_findings(self._baseline)
        return faked

    def _store_partial_findings(self) -> None:
        """Store the findings after a part of the work, for the run that does the rest."""
        found = self._differences(self._baseline).keys()
        caused = found - self._baseline
        self.recorder.store_findings(found & self._baseline, caused)

    def _not_applied(self, missing: tuple[str, ...]) -> str:
        text = f"Not applied after `migrate`: {name_some(missing)}."
        if self.context.build.replacements.keys().isdisjoint(missing):
            return text
        return (
            f"{text} Django applies no squashed migration while some of the migrations that it "
            "replaces are recorded and the others are not. Apply the others first, with a "
            "release that still has their files."
        )

    def _validate_schema(self) -> ValidationReport:
        """Return the findings, and log them. An error is a finding that this run has caused."""
        found = validate(
            self.context.alias,
            self.session.introspection(),
            self.context.build,
            self.context.settings.validate,
        )
        forced = self.progress.options.force
        report = found.against(() if forced else self._baseline, strict_kinds())
        log_findings(self.context.alias, report.schema)
        return report

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Raise errors of this package, and note what the run has done, however it ends.

        An error before the run has a session is raised as it is.
        """
        try:
            yield
        except BaseException as exc:
            error = self._translated(exc)
            self._log_failure(error)
            if error is exc:
                raise
            raise error from exc
        finally:
            if self._session is not None:
                self.progress.applied += self._applied
                run_id = self._session.recorder.run_id
                self.progress.run_id = run_id or self.progress.run_id

    def _translated(self, exc: BaseException) -> BaseException:
        if self._session is None or isinstance(exc, SafeInitError):
            return exc
        if self._connection_lost:
            return LockLost(f"A connection of the run was lost: {one_line(exc)}")
        if not isinstance(exc, (Exception, SystemExit)):
            return exc
        error = InitializationFailed(
            self._reason(exc),
            applied=(*self.progress.applied, *self._applied),
            failed_migration=self._failed_step,
            run=self.recorder.run_id,
        )
        error.__cause__ = exc  # for the log
        return error

    def _log_failure(self, error: BaseException) -> None:
        """Log once why the run failed: `error`, which the caller gets, is not logged again."""
        cause = self._cause
        if cause is None:  # no run was open
            return
        starts_over = isinstance(error, LockLost)
        has_failed = self._outcome_written != "interrupted" and not starts_over
        logged = self.task.error_to_log(error, cause) if has_failed else None
        run = self.context.alias, self.recorder.run_id
        reason = self.recorder.error or self._reason(cause)
        if logged is not None:
            # Bad input has no traceback, and the traceback of a tenant's schema is logged already.
            is_told = isinstance(logged, ConfigurationError) or getattr(
                logged, "is_logged", False
            )
            shown = None if is_told else logged
            logger.error("%s: run %s failed: %s", *run, reason, exc_info=shown)
        elif isinstance(cause, Exception):
            logger.info("%s: run %s: %s", *run, reason, exc_info=cause)

    @property
    def _applied(self) -> tuple[str, ...]:
        return tuple(self._tracker.applied) if self._tracker else ()

    @contextmanager
    def _closed_run(self) -> Iterator[None]:
        """Let `track()` count for the run, and close the run if the block raises."""
        try:
            with use_tracker(self.recorder.progress):
                yield
        except BaseException as exc:
            self._cause = exc
            self._outcome_written = self._close_run(exc)
            if self._outcome_written == "failed" and self._is_lost(exc):
                raise InitializationFailed(self.recorder.error) from exc
            raise

    def _close_run(self, exc: BaseException) -> str | None:
        """Return the outcome that was written, or None if the session is gone."""
        expected = self._outcome(exc)
        is_harmless = expected == "transient" and is_output_lost(exc)
        state = State.UNINITIALIZED if is_harmless else State.ERROR
        try:
            # A non-atomic step that was cut off stays open: its effect is unknown.
            if self._current and self._current.current_is_atomic:
                self.recorder.finish_step("failed")
            with shield():
                written = self.recorder.finish_run(
                    expected, state, self._reason(exc), _traceback_of(exc)
                )
            if written != expected:
                line = wrap(
                    f"run {self.recorder.run_id} failed: ", self.recorder.error or ""
                )
                with suppress(OSError):  # a broken pipe must not replace the error
                    self.task.report(line)
            return written
        except SafeInitError as error:
            logger.info("Run %s is left open: %s", self.recorder.run_id, error)
            return None

    def _outcome(self, exc: BaseException) -> str:
        if self._tracker is not None and self._tracker.is_half_undone:
            return "failed"  # all is recorded, so only this run tells
        if isinstance(exc, KeyboardInterrupt):
            return "interrupted"
        transient = isinstance(exc, LockWaitTimeout) or (
            self.session.classify(exc) is ErrorKind.TRANSIENT or is_local(exc)
        )
        partial = isinstance(exc, PartiallyApplied)
        if self._is_lost(exc) or (transient and not partial):
            return "transient"
        # A target that was mistyped, or cannot be reached, says nothing about the build. A
        # migration that is half done, or half undone, does.
        half_done = self._tracker is not None and self._tracker.is_half_done
        whole = self._is_whole or half_done or isinstance(exc, ValidationFailed)
        return "failed" if whole else "partial"

    def _is_lost(self, exc: BaseException) -> bool:
        """Return True if the run lost a connection; not if another client in it did."""
        return isinstance(exc, LockLost) or self.session.classify(exc) is ErrorKind.LOST

    def _reason(self, exc: BaseException) -> str:
        """Return the error's text, with the migration or step that raised it."""
        step = self._failed_step
        text = message_of(exc)
        if not isinstance(exc, SafeInitError):
            text = f"{type(exc).__name__}: {text}"
        operation = self._tracker and self._tracker.failed_operation
        if operation and not isinstance(exc, DDLLockTimeout):
            text = wrap(f"{operation}: ", text)
        return wrap(f"{step}: ", text) if step and step not in text else text

    @property
    def _failed_step(self) -> str | None:
        return self._current.current if self._current else None

    @property
    def _current(self) -> MigrationTracker | StepRunner | None:
        return self._steps or self._tracker


def _traceback_of(exc: BaseException) -> str:
    """Return the traceback to store: of a migration in a tenant's schema, if that has failed."""
    return getattr(exc, "traceback", None) or stored_traceback(exc)


#: The errors of this package that are the run's own, also while a migration runs.
_OWN = (InitializationFailed, LockLost, LockWaitTimeout, UnsafeConnection)
