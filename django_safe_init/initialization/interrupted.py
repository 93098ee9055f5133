"""Non-atomic migrations, and steps, that an earlier leader started and did not finish.

What such a migration has done is unknown, except where all it does is to add or remove indexes
concurrently: what those left behind can be seen, removed, and made again.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations import Migration
from django.db.migrations.exceptions import IrreversibleError
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.operations import RunPython, SeparateDatabaseAndState
from django.db.migrations.operations.base import Operation

from django_safe_init.conf import Settings
from django_safe_init.core.records import InterruptedStep
from django_safe_init.core.step import StepDefinition
from django_safe_init.exceptions import ConfigurationError, UnfinishedMigration

logger = logging.getLogger("django_safe_init")


def operations(migration: Migration) -> Iterator[Operation]:
    """What the migration does to the database, without wrappers."""
    yield from _flatten(migration.operations)


def _flatten(items: Iterable[Operation]) -> Iterator[Operation]:
    for operation in items:
        if isinstance(operation, SeparateDatabaseAndState):
            yield from _flatten(operation.database_operations)
        else:
            yield operation


def runs_custom_code(migration: Migration) -> bool:
    """Whether the migration runs code that is not Django's, which may do anything."""
    return any(
        isinstance(operation, RunPython)
        or not type(operation).__module__.startswith("django.")
        for operation in operations(migration)
    )


def _index_name(operation: Operation) -> str | None:
    """The index that the operation adds or removes concurrently; None for anything else."""
    # Not imported here: without a driver of PostgreSQL that fails, and nobody can have used it.
    postgres: Any = sys.modules.get("django.contrib.postgres.operations")
    if postgres is None:
        return None
    if isinstance(operation, postgres.AddIndexConcurrently):
        return str(operation.index.name)
    if isinstance(operation, postgres.RemoveIndexConcurrently):
        return str(operation.name)
    return None


def concurrent_indexes(migration: Migration) -> list[str]:
    """The indexes that the migration adds or removes concurrently."""
    names = (_index_name(operation) for operation in operations(migration))
    return [name for name in names if name is not None]


def only_concurrent_indexes(migration: Migration) -> bool:
    """Whether all that the migration does is to add and remove indexes concurrently."""
    return all(
        _index_name(operation) is not None for operation in operations(migration)
    )


def is_reversible(migration: Migration) -> bool:
    """Whether Django would reverse it at all."""
    return all(operation.reversible for operation in migration.operations)


def require_reversible(migration: Migration) -> None:
    """Raise Django's error now: a mark of a reversal that cannot begin would stay for good."""
    for operation in migration.operations:
        if not operation.reversible:
            raise IrreversibleError(
                f"Operation {operation} in {migration} is not reversible"
            )


def existing_indexes(
    connection: BaseDatabaseWrapper, names: list[str], *, valid: bool = False
) -> set[str]:
    """Those of the names that are indexes now; with `valid`, only if they are usable."""
    if not names:
        return set()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid"
            " WHERE c.relname = ANY(%s) AND pg_table_is_visible(c.oid)"
            " AND (i.indisvalid OR NOT %s)",
            [names, valid],
        )
        return {name for (name,) in cursor.fetchall()}


class InterruptedSteps:
    """The marks that a leader found, and what is to be done about each.

    The setting `UNFINISHED` is the policy; `rerun` names the migrations that may run again
    whatever the policy says. Raises `ConfigurationError` for a name that is not unfinished.
    """

    def __init__(
        self,
        marks: dict[str, InterruptedStep],
        settings: Settings,
        rerun: tuple[str, ...],
        alias: str,
    ) -> None:
        self.marks = marks
        self.policy = settings.unfinished
        self._where = database_option(settings, alias)
        self.rerun = frozenset(rerun)
        for name in rerun:
            if name not in self.marks:
                known = ", ".join(sorted(self.marks)) or "none is"
                raise ConfigurationError(
                    f"--rerun {name}: that is not unfinished. Unfinished: {known}."
                )

    @property
    def runs(self) -> set[int]:
        """The runs that made the marks."""
        return {mark.run for mark in self.marks.values()}

    def settle_step(self, step: StepDefinition) -> None:
        """Make it possible to do the step again, if that was begun and is to be done once.

        Raises `UnfinishedMigration` when a person has to decide.
        """
        if step.label not in self.marks or step.run != "once":
            return
        again = f"python manage.py safe_migrate{self._where} --rerun {step.label}"
        self._judge(
            step.label,
            f"The step {step.label} is not atomic and was interrupted, so what it has done is "
            f"unknown. Look at the database, then do it again: {again}",
        )

    def settle_reversals(self, connection: BaseDatabaseWrapper) -> None:
        """Complete reversals that were interrupted, before the plan is made.

        Their migrations are still recorded, so no plan would ever touch them again, although
        what they made may be gone already.
        """
        marks = [mark for mark in self.marks.values() if mark.backwards]
        if not marks:
            return
        executor = MigrationExecutor(connection)
        for mark in marks:
            app_label, name = mark.name.split(".", 1)
            migration = executor.loader.disk_migrations.get((app_label, name))
            recorded = (app_label, name) in executor.loader.applied_migrations
            if migration is None or not recorded:
                continue
            if not self._begun(connection, mark, migration):
                _drop_leftover_indexes(connection, mark, migration)
            else:
                self.settle(connection, migration, backwards=True)
                logger.warning(
                    "%s was being reversed: that is completed now.", mark.name
                )
                state = executor.loader.project_state((app_label, name), at_end=False)
                executor.unapply_migration(state, migration)

    def _begun(
        self,
        connection: BaseDatabaseWrapper,
        mark: InterruptedStep,
        migration: Migration,
    ) -> bool:
        """Whether a reversal can have changed anything, but for an index that is unfinished."""
        if not only_concurrent_indexes(migration):
            return is_reversible(migration)
        names = concurrent_indexes(migration)
        return existing_indexes(connection, names, valid=True) != mark.indexes_before

    def settle(
        self, connection: BaseDatabaseWrapper, migration: Migration, backwards: bool
    ) -> None:
        """Make it possible to run the migration, or its reversal, again.

        Raises `UnfinishedMigration` when a person has to decide.
        """
        mark = self.marks.get(f"{migration.app_label}.{migration.name}")
        if mark is None or mark.backwards is not backwards:
            return  # the opposite is asked for: what was begun has been recorded since
        if not only_concurrent_indexes(migration):
            self._judge(mark.name, _recovery_hint(mark, migration, self._where))
        _drop_leftover_indexes(connection, mark, migration)

    def _judge(self, name: str, ways_on: str) -> None:
        if name in self.rerun:
            return
        if self.policy == "report":
            raise UnfinishedMigration(ways_on, failed_migration=name)
        logger.warning("%s is not atomic and was interrupted: it runs again.", name)


def database_option(settings: Settings, alias: str) -> str:
    """The option that names the database in a command, where it is not the only one."""
    return "" if settings.databases == (alias,) else f" --database {alias}"


def _recovery_hint(mark: InterruptedStep, migration: Migration, where: str) -> str:
    app = migration.app_label
    what, again, done, name = "", "run it again", "done", migration.name
    if mark.backwards:
        what, again, done = " while it was reversed", "reverse and apply it", "reversed"
        before = (name for label, name in migration.dependencies if label == app)
        name = next(before, "zero")
    return (
        f"{mark.name} is not atomic and was interrupted{what}, so what it has done is "
        f"unknown. Look at the database, then either {again}: "
        f"python manage.py safe_migrate{where} --rerun {mark.name} -- or record it as {done}: "
        f"python manage.py migrate{where} --fake {app} {name}"
    )


def _drop_leftover_indexes(
    connection: BaseDatabaseWrapper, mark: InterruptedStep, migration: Migration
) -> None:
    names = concurrent_indexes(migration)
    for name in sorted(existing_indexes(connection, names) - mark.indexes_before):
        _drop(connection, name)


def _drop(connection: BaseDatabaseWrapper, index: str) -> None:
    logger.warning(
        "Dropping the index %s, left behind by an interrupted migration.", index
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"DROP INDEX CONCURRENTLY IF EXISTS {connection.ops.quote_name(index)}"
        )


def start_detail(
    connection: BaseDatabaseWrapper, migration: Migration
) -> dict[str, Any] | None:
    """What the start mark of a non-atomic migration has to remember."""
    names = concurrent_indexes(migration)
    return (
        {"indexes_before": sorted(existing_indexes(connection, names))}
        if names
        else None
    )
