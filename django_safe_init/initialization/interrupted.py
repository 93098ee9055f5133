"""Decide about non-atomic migrations and steps that an earlier leader did not finish.

Their effect on the database is unknown. The exception is a migration that only adds or removes
indexes concurrently: an index that it left behind can be found, dropped, and made again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations import Migration
from django.db.migrations.exceptions import IrreversibleError
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.operations import RunPython, SeparateDatabaseAndState
from django.db.migrations.operations.base import Operation

from django_safe_init.backends.base.run_session import RunSession
from django_safe_init.conf import Settings
from django_safe_init.core.records import InterruptedStep
from django_safe_init.core.step import StepDefinition
from django_safe_init.core.text import Hint, name_some
from django_safe_init.exceptions import ConfigurationError, UnfinishedMigration
from django_safe_init.initialization.half_done import HalfDoneMigrations, Resumption

logger = logging.getLogger("django_safe_init")


def operations(migration: Migration) -> Iterator[Operation]:
    """Yield the operations that change the database, without their wrappers."""
    yield from _flatten(migration.operations)


def _flatten(items: Iterable[Operation]) -> Iterator[Operation]:
    for operation in items:
        if isinstance(operation, SeparateDatabaseAndState):
            yield from _flatten(operation.database_operations)
        else:
            yield operation


def runs_custom_code(migration: Migration) -> bool:
    """Return True if the migration runs code that is not Django's."""
    return any(
        isinstance(operation, RunPython)
        or not type(operation).__module__.startswith("django.")
        for operation in operations(migration)
    )


def is_reversible(migration: Migration) -> bool:
    """Return True if Django can reverse the migration."""
    return all(operation.reversible for operation in migration.operations)


def require_reversible(migration: Migration) -> None:
    """Raise Django's `IrreversibleError` before the reversal is recorded as started.

    The record of a reversal that cannot start would never be closed.
    """
    for operation in migration.operations:
        if not operation.reversible:
            raise IrreversibleError(
                f"Operation {operation} in {migration} is not reversible"
            )


def concurrent_indexes(session: RunSession, migration: Migration) -> list[str]:
    """Return the indexes that the migration adds or removes concurrently."""
    names = map(session.concurrent_index, operations(migration))
    return [name for name in names if name is not None]


def only_concurrent_indexes(session: RunSession, migration: Migration) -> bool:
    """Return True if the migration only adds and removes indexes concurrently."""
    return None not in map(session.concurrent_index, operations(migration))


class InterruptedSteps:
    """The non-atomic migrations and steps that earlier leaders did not finish.

    The setting `UNFINISHED` is the policy. Names in `rerun` may run again in any case.
    Raises `ConfigurationError` for a name that is not interrupted.
    """

    def __init__(
        self,
        session: RunSession,
        settings: Settings,
        rerun: tuple[str, ...],
        alias: str,
        resume: tuple[str, ...] = (),
        *,
        where: str | None = None,
        is_known_clean: bool = False,
    ) -> None:
        self.session = session
        self.steps = {} if is_known_clean else session.reader.interrupted()
        if self.steps:
            session.ensure_journal()
        self.policy = settings.unfinished
        #: The options that name the database, or the schema, in a command.
        self._database_option = (
            database_option(settings, alias) if where is None else where
        )
        self.rerun = frozenset(rerun)
        for name in rerun:
            if name not in self.steps:
                known = name_some(sorted(self.steps)) or "none is"
                raise ConfigurationError(
                    f"--rerun {name}: that is not unfinished. Unfinished: {known}."
                )
        #: The migrations whose operations have a journal.
        self.half_done = HalfDoneMigrations(
            session,
            session.reader.journal() if self.steps else (),
            policy=self.policy,
            where=self._database_option,
            reruns=self.rerun,
            resumptions=[Resumption.parse(text) for text in resume],
        )

    @property
    def runs(self) -> set[int]:
        """The runs in which they were started."""
        return {step.run for step in self.steps.values()}

    def prepare_step(self, step: StepDefinition) -> None:
        """Prepare the step to run again, if it was interrupted and runs only once.

        Raises `UnfinishedMigration` when a person has to decide.
        """
        if step.label not in self.steps or step.run != "once":
            return
        again = (
            f"python manage.py safe_migrate{self._database_option} --rerun {step.label}"
        )
        self._apply_policy(
            step.label,
            f"The step {step.label} is not atomic and was interrupted, so what it has done is "
            f"unknown. Look at the database, then do it again: {again}",
        )

    def complete_reversals(self, connection: BaseDatabaseWrapper) -> None:
        """Complete reversals that were interrupted, before the plan is made.

        Their migrations are still recorded, so no plan contains them, although the reversal
        may have dropped their tables already.
        """
        reversals = [
            step
            for step in self.steps.values()
            if step.backwards and not step.has_journal
        ]
        if not reversals:
            return
        executor = MigrationExecutor(connection)
        for step in reversals:
            app_label, name = step.name.split(".", 1)
            migration = executor.loader.disk_migrations.get((app_label, name))
            recorded = (app_label, name) in executor.loader.applied_migrations
            if migration is None or not recorded:
                continue
            if not self._may_have_started(connection, step, migration):
                self._drop_leftover_indexes(connection, step, migration)
            else:
                self.prepare_rerun(connection, migration, backwards=True)
                logger.warning(
                    "%s was being reversed: that is completed now.", step.name
                )
                state = executor.loader.project_state((app_label, name), at_end=False)
                executor.unapply_migration(state, migration)

    def _may_have_started(
        self,
        connection: BaseDatabaseWrapper,
        step: InterruptedStep,
        migration: Migration,
    ) -> bool:
        """Return True if the reversal can have changed more than an invalid index."""
        if not only_concurrent_indexes(self.session, migration):
            return is_reversible(migration)
        names = concurrent_indexes(self.session, migration)
        return (
            self.session.existing_indexes(connection, names, valid=True)
            != step.indexes_before
        )

    def prepare_rerun(
        self, connection: BaseDatabaseWrapper, migration: Migration, backwards: bool
    ) -> None:
        """Prepare the migration, or its reversal, to run again.

        Raises `UnfinishedMigration` when a person has to decide.
        """
        step = self.steps.get(f"{migration.app_label}.{migration.name}")
        if step is None or step.has_journal or step.backwards is not backwards:
            return  # the opposite direction: the interrupted one was completed since
        if not only_concurrent_indexes(self.session, migration):
            self._apply_policy(
                step.name, _recovery_hint(step, migration, self._database_option)
            )
        self._drop_leftover_indexes(connection, step, migration)

    def _apply_policy(self, name: str, hint: str) -> None:
        if name in self.rerun:
            return
        if self.policy == "report":
            raise UnfinishedMigration(hint, failed_migration=name)
        logger.warning("%s is not atomic and was interrupted: it runs again.", name)

    def _drop_leftover_indexes(
        self,
        connection: BaseDatabaseWrapper,
        step: InterruptedStep,
        migration: Migration,
    ) -> None:
        names = concurrent_indexes(self.session, migration)
        existing = self.session.existing_indexes(connection, names)
        for name in sorted(existing - step.indexes_before):
            logger.warning(
                "Dropping the index %s, left behind by an interrupted migration.", name
            )
            self.session.drop_index(connection, name)


def database_option(settings: Settings, alias: str) -> str:
    """Return the option that names the database in a command; empty for the only one."""
    return "" if settings.databases == (alias,) else f" --database {alias}"


def _recovery_hint(step: InterruptedStep, migration: Migration, where: str) -> str:
    app = migration.app_label
    what, again, done, name = "", "run it again", "done", migration.name
    if step.backwards:
        what, again, done = " while it was reversed", "reverse and apply it", "reversed"
        before = (name for label, name in migration.dependencies if label == app)
        name = next(before, "zero")
    return Hint(
        f"{step.name} is not atomic and was interrupted{what}, so what it has done is "
        f"unknown. Look at the database, then either {again} (the first command), or record it "
        f"as {done} (the second):",
        f"python manage.py safe_migrate{where} --rerun {step.name}",
        f"python manage.py migrate{where} --fake {app} {name}",
    )


def start_detail(
    session: RunSession, connection: BaseDatabaseWrapper, migration: Migration
) -> dict[str, Any] | None:
    """Return the detail to record with the start of a non-atomic migration."""
    names = concurrent_indexes(session, migration)
    if not names:
        return None
    return {"indexes_before": sorted(session.existing_indexes(connection, names))}
