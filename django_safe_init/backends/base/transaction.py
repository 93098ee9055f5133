"""The transaction in which an atomic migration is done, and recorded."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from django_safe_init.exceptions import InitializationFailed

logger = logging.getLogger("django_safe_init")

Names = set[tuple[str, str]]


def recorded_sql(mark: str, names: Names) -> str:
    """The query for those of the names that are recorded; `mark` stands for a parameter.

    Without names the table need not be there: Django makes none while no app has a migration.
    """
    if not names:
        return "SELECT 1 WHERE 1 = 0"
    is_one_of = " OR ".join([f"app = {mark} AND name = {mark}"] * len(names))
    return f"SELECT app, name FROM django_migrations WHERE {is_one_of}"


class MigrationTransaction(ABC):
    """One transaction after the other on one connection, each for one migration.

    What differs between engines is how it begins, and how the end of it is noticed.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        #: The migration that the open transaction is for.
        self.migration = ""
        self._wanted: Names = set()
        #: Whether nothing in its SQL has ended it: to roll back undoes all of it.
        self.is_intact = True
        self._atomic: transaction.Atomic | None = None
        self._shares = False
        connection.SchemaEditorClass = self._sharing(connection.SchemaEditorClass)

    def begin(
        self, migration: str, names: Names, check: Callable[[Names], None], plain: bool
    ) -> None:
        """Begin, and let `check` judge which of the names the transaction sees as recorded.

        It is called before the first statement of the migration, and before any code of its
        own; `plain` says that it has none.
        """
        self.migration = migration
        self.is_intact = True
        self._wanted, self._check = names, check
        self._enter()
        self._shares = True
        if not plain:
            self._check_recorded()

    def retry(self) -> None:
        """Begin once more, for the same migration, whose schema editor is open already."""
        self._enter()
        self._check_recorded()

    def _enter(self) -> None:
        atomic = transaction.atomic(using=self.connection.alias)
        self._begin(atomic, self._wanted)
        self._atomic = atomic
        self.connection.execute_wrappers.append(self._execute_wrapper)

    @abstractmethod
    def _begin(self, atomic: transaction.Atomic, names: Names) -> None:
        """Enter the block, and prepare to look which of the names are recorded."""

    @abstractmethod
    def _recorded_names(self) -> Names | None:
        """Which of the names the transaction sees as recorded; None if that was asked before."""

    @abstractmethod
    def has_ended(self) -> bool:
        """Whether the connection is outside of any transaction."""

    @abstractmethod
    def _was_rolled_back(self, cursor: Any) -> bool:
        """Whether the transaction that has ended was undone; `cursor` made the last statement."""

    @abstractmethod
    def _before_on_commit(self) -> None:
        """Called before a commit that will start what `on_commit()` was given."""

    def _check_recorded(self) -> None:
        recorded = self._recorded_names()
        if recorded is not None:
            self._check(recorded)

    def close(self, *exc_info: Any) -> None:
        """Commit, or roll back because of the exception. Does nothing if none is open."""
        atomic, self._atomic = self._atomic, None
        self._shares = False
        if atomic is not None:
            self._close(atomic, exc_info)

    def _close(self, atomic: transaction.Atomic, exc_info: tuple[Any, ...]) -> None:
        self.connection.execute_wrappers.remove(self._execute_wrapper)
        if exc_info[0] is None and self.connection.run_on_commit:
            self._before_on_commit()
        doomed = self.connection.needs_rollback or self.connection.closed_in_transaction
        if exc_info[0] is None and doomed:
            # Django's atomic() would roll back here without a word.
            atomic.__exit__(InitializationFailed, InitializationFailed(), None)
            raise InitializationFailed(
                f"{self.migration} left its transaction broken: everything it did is undone."
            )
        atomic.__exit__(*exc_info)

    def _execute_wrapper(self, execute: Callable[..., Any], *args: Any) -> Any:
        """Notice a statement that ends the transaction, which Django does not."""
        self._check_recorded()
        result = execute(*args)
        self._check_still_open(args[-1]["cursor"])
        return result

    def _check_still_open(self, cursor: Any) -> None:
        if self.connection.connection is None or not self.has_ended():
            return
        if self._was_rolled_back(cursor):
            raise InitializationFailed(
                f"{self.migration} has undone its transaction, so what it did before is lost "
                "and would be recorded as done. A migration with ROLLBACK in its SQL needs "
                "atomic = False."
            )
        if self.is_intact:
            self.is_intact = False
            # It goes on as with Django: to stop here would leave it half recorded.
            logger.warning(
                "%s has committed its transaction itself. Had this process died there, what was "
                "done would not be recorded. Such a migration needs atomic = False.",
                self.migration,
            )

    def _sharing(
        self, base: type[BaseDatabaseSchemaEditor]
    ) -> type[BaseDatabaseSchemaEditor]:
        """A schema editor that works in the transaction of its migration, without a savepoint.

        The savepoint would protect nothing: its failure undoes the whole transaction.
        """
        owner = self

        # The ignored errors: the base is whatever the connection has, known only when it runs.
        class SavepointFreeSchemaEditor(base):  # type: ignore[misc, valid-type]
            atomic_migration: bool

            def __enter__(self) -> Any:
                shares, owner._shares = owner._shares, False
                if not shares or not self.atomic_migration:
                    return super().__enter__()
                self.atomic_migration = False
                super().__enter__()
                self.atomic_migration, self.atomic = True, nullcontext()
                return self

        return SavepointFreeSchemaEditor
