"""Apply each migration of Django's `migrate` exactly once: fenced, recorded, in one transaction.

Django records a migration with deferred SQL, and every reversal, in a second transaction after
the work. A process that dies between the two leaves a database that no `migrate` can repair.
Here one transaction holds both: it begins when Django reports the start of a migration, and is
committed when Django reports its success. `migration_progress_callback` reports both moments in
every executor, so no executor has to be replaced and other packages may bring theirs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations import Migration
from django.db.migrations.recorder import MigrationRecorder
from django.db.migrations.state import ProjectState
from django.db.models.signals import pre_migrate

from django_safe_init.backends.base.recorder import Fence
from django_safe_init.backends.base.run_session import RunSession
from django_safe_init.backends.base.transaction import Names
from django_safe_init.core.states import State
from django_safe_init.exceptions import LockLost
from django_safe_init.initialization.doubt import policy_of
from django_safe_init.initialization.half_done import HalfDoneMigrations
from django_safe_init.initialization.interrupted import (
    InterruptedSteps,
    only_concurrent_indexes,
    require_reversible,
    runs_custom_code,
    start_detail,
)
from django_safe_init.initialization.journal import Journal
from django_safe_init.initialization.lock_retry import LockTimeoutRetry
from django_safe_init.initialization.operation_names import name_operation
from django_safe_init.initialization.operations import (
    OperationRunner,
    can_be_journaled,
    flat,
)

logger = logging.getLogger("django_safe_init")


class MigrationTracker:
    """Context manager around one `migrate` of a leader, from its plan to `post_migrate`.

    A `MigrationListener`: it verifies before and after each migration that this process leads.
    `recorded` are the recorded migrations, if the caller has read them.
    """

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        session: RunSession,
        interrupted: InterruptedSteps,
        report: Callable[[str], None] = lambda line: None,
        recorded: Names | None = None,
    ) -> None:
        self.connection = connection
        self._recorded = recorded
        self.session = session
        self.recorder = session.recorder
        self.interrupted = interrupted
        #: The migrations that were applied and recorded, in order.
        self.applied: list[str] = []
        #: The migration that is being applied.
        self.current: str | None = None
        #: True while the migration's own code may run.
        self.in_migration = False
        #: True if a failure rolls the current migration back as a whole.
        self.current_is_atomic = False
        #: Runs the operations of the current migration, if it has a journal.
        self._runner: OperationRunner | None = None
        #: The number of steps after the migrations.
        self.steps = 0
        self._has_plan = False
        self._thread = threading.current_thread()
        self._recorded_before: frozenset[tuple[str, str]] = frozenset()
        self.transaction = session.transaction(connection)
        self._report = report
        #: Context managers around the migration that is being applied.
        self._around = ExitStack()

    def __enter__(self) -> MigrationTracker:
        recorded: Iterable[tuple[str, str]] | None = self._recorded
        if recorded is None:
            recorded = MigrationRecorder(self.connection).applied_migrations()
        self._recorded_before = frozenset(recorded)
        pre_migrate.connect(self._on_plan)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pre_migrate.disconnect(self._on_plan)
        if self.current is not None:
            self.transaction.close(error)
        if isinstance(error, Exception) and self.failed_operation:
            self._report(
                f"{self.current}: {self.failed_operation}. The next start goes on there."
            )
        self._around.__exit__(kind, error, traceback)

    def _on_plan(
        self,
        using: str,
        plan: list[tuple[Migration, bool]] | None = None,
        **kwargs: Any,
    ) -> None:
        # Django sends it once per app before the first migration, in each run of this process.
        mine = self._thread is threading.current_thread()
        if not mine or using != self.connection.alias:
            return
        if plan is not None and not self._has_plan:
            self._has_plan = True
            self.recorder.total = len(plan) + self.steps
            self.recorder.update(State.MIGRATING, "pre_migrate")

    @property
    def failed_operation(self) -> str | None:
        """The operation that failed in the current migration, and how many are committed."""
        failed = self._runner and self._runner.failed
        return failed.text if failed else None

    @property
    def is_half_done(self) -> bool:
        """True if the current migration has failed, and some of its work stays."""
        return self._runner is not None and self._runner.leaves_work

    @property
    def is_half_undone(self) -> bool:
        """True if a recorded migration lacks some of its operations."""
        runner = self._runner
        if runner is not None and self.is_half_done:
            return runner.recorded
        return bool(self.half_done.half_undone)

    @property
    def half_done(self) -> HalfDoneMigrations:
        """The migrations that earlier leaders left half done."""
        return self.interrupted.half_done

    def on_apply_start(
        self, migration: Migration, *, backwards: bool, fake: bool
    ) -> None:
        self._start(migration, backwards=backwards, fake=fake)

    def _start(
        self,
        migration: Migration,
        *,
        backwards: bool,
        fake: bool = False,
        turned: bool = False,
    ) -> None:
        """Prepare the migration. One that is turned round keeps its record as it is."""
        name = f"{migration.app_label}.{migration.name}"
        self.current = name
        atomic = fake or self._is_one_transaction(migration, name)
        journal = None
        detail = None
        if not atomic or name in self.interrupted.steps:
            self.session.verify()
        if not fake:
            self.interrupted.prepare_rerun(self.connection, migration, backwards)
        if not atomic:
            if backwards and not turned:
                require_reversible(migration)
            journal = self._open_journal(migration, backwards)
            detail = (
                start_detail(self.session, self.connection, migration)
                if journal is None
                else {"journal": True}
            )
        self.current_is_atomic = atomic
        fence = self.recorder.start_step(
            name, backwards=backwards, atomic=atomic, detail=detail
        )
        if atomic:
            self._begin_transaction(migration, fence)
        else:
            fence.verify()
        if journal is not None:
            self._run_through(journal, migration, backwards, turned)
        elif not fake:
            self._limit_lock_waits(migration, backwards)
        self.in_migration = True

    def _open_journal(self, migration: Migration, backwards: bool) -> Journal | None:
        """Return the journal of the migration; None if it has to run as a whole."""
        if not can_be_journaled(migration):
            return None
        return self.half_done.open_journal(
            self.connection, migration, backwards=backwards
        )

    def _run_through(
        self, journal: Journal, migration: Migration, backwards: bool, turned: bool
    ) -> None:
        """Let the operations of the migration run through the journal."""
        names = self._names(migration)
        retry = self._lock_retry()
        runner = OperationRunner(
            migration,
            self.session,
            self.transaction,
            journal,
            lambda recorded: self._check_record(recorded, names),
            backwards=backwards,
            turned=turned,
            where=self.half_done.where,
            limit=None if retry is None else retry.repeat,
            on_start=self.recorder.start_operation,
        )
        policy = policy_of(migration, self.interrupted.policy)
        journal.open(
            [name_operation(each) for each in flat(migration.operations)], policy
        )

        def finish() -> None:
            if not turned:
                self.transaction.begin(
                    str(self.current),
                    names,
                    lambda recorded: self._check_record(recorded, names),
                    runs_custom_code=True,
                    limited=False,
                )
            journal.close()

        self._runner = runner
        if retry is not None:
            self._around.enter_context(retry.watched())
        self._around.enter_context(runner.replaced(finish))

    def _lock_retry(self) -> LockTimeoutRetry | None:
        timeout = self.session.lock_timeout
        if timeout is None or timeout.policy is None:
            return None
        return LockTimeoutRetry(
            timeout, timeout.policy, self.session, self.transaction, self._report
        )

    def run_turned(self, migration: Migration, state: ProjectState) -> None:
        """Take the finished operations of the migration back; its record stays as it is.

        `state` is the state before the migration.
        """
        backwards = not self.half_done.is_recorded(
            f"{migration.app_label}.{migration.name}"
        )
        self._start(migration, backwards=backwards, turned=True)
        run = migration.unapply if backwards else migration.apply
        state.apps  # noqa: B018  (rendered before, as by Django's executor: it orders the columns)
        with self.connection.schema_editor(atomic=migration.atomic) as editor:
            run(state, editor)
        self.on_apply_success(fake=False)

    def _is_one_transaction(self, migration: Migration, name: str) -> bool:
        """Return True if the migration runs as one transaction.

        Raises `UnfinishedMigration` if it is half done, because its journal would be passed over.
        """
        if not self._is_atomic(migration):
            return False
        if name in self.half_done:
            raise self.half_done.refuse_whole(name)
        return True

    def _is_atomic(self, migration: Migration) -> bool:
        """Return True if Django would run the migration in one transaction.

        An engine may be unable to roll back DDL, and a package's schema editor may be never
        atomic, as in django-pg-zero-downtime-migrations.
        """
        editor = self.connection.schema_editor(atomic=migration.atomic)
        return bool(editor.atomic_migration)

    def on_apply_success(self, *, fake: bool) -> None:
        self.in_migration = False
        if fake and self._runner is not None:  # Django has taken it for applied
            self._runner.journal.close()
        elif fake and self.current and self.current in self.half_done:
            self.half_done.forget(self.connection, self.current)
        self.transaction.close()
        self._around.close()
        self._runner = None
        self.half_done.finish(str(self.current))
        name, self.current = self.current, None
        assert name is not None  # Django reports a start before each success
        self.current_is_atomic = False
        self.applied.append(name)
        self.recorder.finish_step("faked" if fake else "done")
        if self.recorder.done == self.recorder.total - self.steps:
            self.recorder.update(State.MIGRATING, "post_migrate")

    def _limit_lock_waits(self, migration: Migration, backwards: bool) -> None:
        retry = self._lock_retry()
        if retry is None:
            return
        atomic = self.current_is_atomic
        if not atomic:
            if only_concurrent_indexes(self.session, migration):
                return  # they block no query, and a limit would leave an invalid index
            self._around.enter_context(retry.timeout.limited(self.connection))
        around = retry.wrap(migration, atomic=atomic, backwards=backwards)
        self._around.enter_context(around)

    def _names(self, migration: Migration) -> Names:
        """Return the names under which the migration is recorded."""
        return {(migration.app_label, migration.name), *migration.replaces}

    def _check_record(self, recorded: Names, names: Names) -> None:
        if recorded != names & self._recorded_before:
            raise LockLost(
                f"The record of {self.current} was changed meanwhile by a program that does "
                "not take the leader lock."
            )

    def _begin_transaction(self, migration: Migration, fence: Fence) -> None:
        names = self._names(migration)

        def check(recorded: Names) -> None:
            fence.verify()
            self._check_record(recorded, names)

        self.transaction.begin(
            str(self.current),
            names,
            check,
            runs_custom_code=runs_custom_code(migration),
        )
