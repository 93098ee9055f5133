"""Apply and record an atomic migration in one transaction."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from django.db import NotSupportedError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from django_safe_init.core.databases import quoted_migration_table
from django_safe_init.exceptions import InitializationFailed

logger = logging.getLogger("django_safe_init")

Names = set[tuple[str, str]]


def recorded_sql(
    connection: BaseDatabaseWrapper, placeholder: str, names: Names, equals: str = "="
) -> str:
    """Return the query for the names that Django's table of migrations contains.

    `placeholder` is a parameter in the driver's style. Without names the query reads no table,
    because Django creates the table only for an app with migrations.
    """
    if not names:
        return "SELECT 1 WHERE NULL"
    is_name = f"app {equals} {placeholder} AND name {equals} {placeholder}"
    condition = " OR ".join([is_name] * len(names))
    table = quoted_migration_table(connection)
    return f"SELECT app, name FROM {table} WHERE {condition}"


class TransactionUndone(InitializationFailed):
    """The SQL of a migration has undone its own transaction."""


#: Texts of Django for code that refuses to run in `atomic()`.
_REFUSALS = ("inside a transaction", "in a transaction", "durable atomic block")


def is_refused_transaction(error: BaseException) -> bool:
    """Return True if Django, or code that asked it, refused to run in a transaction."""
    if isinstance(error, (transaction.TransactionManagementError, TransactionUndone)):
        return True
    refuses = isinstance(error, (NotSupportedError, RuntimeError))
    return refuses and any(text in str(error) for text in _REFUSALS)


class MigrationTransaction(ABC):
    """The transactions of a run's migrations on one connection, one after another.

    Engines differ in how a transaction begins, and in how its end is noticed.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        #: The migration that the open transaction belongs to.
        self.migration = ""
        self._names_to_check: Names = set()
        #: False once the migration's SQL ended the transaction, so a rollback is partial.
        self.is_intact = True
        #: True once the transaction was committed and functions of `on_commit` run.
        self.is_committed = False
        self._atomic: transaction.Atomic | None = None
        self._skips_savepoint = False
        #: True once the migration has set a lock time-out of its own, which stays.
        self.has_own_lock_timeout = False
        #: True if the limit on lock waits applies to the transaction.
        self._is_limited = True
        #: True while the transaction is a part of an open schema editor.
        self._in_editor = False
        connection.SchemaEditorClass = self._without_savepoint(
            connection.SchemaEditorClass
        )

    def begin(
        self,
        migration: str,
        names: Names,
        check: Callable[[Names], None],
        *,
        runs_custom_code: bool,
        limited: bool = True,
    ) -> None:
        """Begin, and call `check` with the names that the transaction sees as recorded.

        `check` is called before the migration's first statement. If the migration runs custom
        code, `begin` calls it at once. Without `limited` its statements wait for locks as long
        as the session lets them.
        """
        self._is_limited = limited
        self._begin_for(migration, names, check)
        self._skips_savepoint = True
        if runs_custom_code:
            self._check_recorded()

    def begin_operation(
        self,
        operation: str,
        names: Names,
        check: Callable[[Names], None],
        *,
        limited: bool = True,
    ) -> None:
        """Begin for a part of a migration, inside the schema editor that is open already.

        Without `limited` its statements wait for locks as long as the session lets them.
        """
        self._in_editor = True
        self._is_limited = limited
        self._begin_for(operation, names, check)
        self._check_recorded()

    def _begin_for(
        self, migration: str, names: Names, check: Callable[[Names], None]
    ) -> None:
        self.migration = migration
        self.is_intact = True
        self.is_committed = False
        self._names_to_check, self._check = names, check
        self._enter()

    def retry(self) -> None:
        """Begin again for the same migration, whose schema editor is already open."""
        self._enter()
        self._check_recorded()

    def _enter(self) -> None:
        atomic = transaction.atomic(using=self.connection.alias)
        self._begin(atomic, self._names_to_check)
        self._atomic = atomic
        self.connection.execute_wrappers.append(self._execute_wrapper)

    @abstractmethod
    def _begin(self, atomic: transaction.Atomic, names: Names) -> None:
        """Enter `atomic`, and prepare the query for the recorded names."""

    @abstractmethod
    def _recorded_names(self) -> Names | None:
        """Return the names that the transaction sees as recorded; None on a later call."""

    @abstractmethod
    def has_ended(self) -> bool:
        """Return True if the connection is outside any transaction."""

    @abstractmethod
    def _was_rolled_back(self, cursor: Any) -> bool:
        """Return True if the ended transaction was rolled back.

        `cursor` executed the last statement.
        """

    def _before_on_commit(self) -> None:  # noqa: B027  (most engines need nothing)
        """Prepare for a commit after which the functions of `on_commit()` run."""

    def _check_recorded(self) -> None:
        recorded = self._recorded_names()
        if recorded is not None:
            self._check(recorded)

    def close(self, error: BaseException | None = None) -> None:
        """Commit, or roll back because of the error. Does nothing without a transaction."""
        atomic, self._atomic = self._atomic, None
        self._skips_savepoint = False
        try:
            if atomic is not None:
                self._close(atomic, error)
        finally:
            self._in_editor, self._is_limited = False, True

    def _close(self, atomic: transaction.Atomic, error: BaseException | None) -> None:
        connection: Any = self.connection
        connection.execute_wrappers.remove(self._execute_wrapper)
        if error is None and connection.run_on_commit:
            self._before_on_commit()
            # The first function of `on_commit`: an error of a later one undoes nothing.
            connection.run_on_commit.insert(0, (set(), self._note_commit, False))
        doomed = self.connection.needs_rollback or self.connection.closed_in_transaction
        if error is None and doomed:
            # Django's atomic() would roll back here without an error.
            error = InitializationFailed(
                f"{self.migration} left its transaction broken: everything it did is undone."
            )
            atomic.__exit__(type(error), error, None)
            raise error
        kind = None if error is None else type(error)
        atomic.__exit__(kind, error, None)

    def _note_commit(self) -> None:
        self.is_committed = True

    def require_none(self, name: str) -> None:
        """Raise `InitializationFailed` if code has left a transaction open, and end it.

        `name` is the step or the operation whose code has run.
        """
        connection = self.connection
        if connection.connection is None:
            return
        if not (connection.get_autocommit() and self.has_ended()):
            connection.close()
            raise InitializationFailed(
                f"{name} has left a transaction open, so what it did in it is undone."
            )

    def _execute_wrapper(self, execute: Callable[..., Any], *args: Any) -> Any:
        """Execute a statement; raise or warn if it ended the transaction.

        Django itself does not notice such an end.
        """
        self._check_recorded()
        result = execute(*args)
        self._check_still_open(args[-1]["cursor"])
        return result

    def _check_still_open(self, cursor: Any) -> None:
        if self.connection.connection is None or not self.has_ended():
            return
        if self._was_rolled_back(cursor):
            raise TransactionUndone(
                f"{self.migration} has undone its transaction, so what it did before is lost "
                "and would be recorded as done. A migration with ROLLBACK in its SQL needs "
                "atomic = False."
            )
        if self.is_intact:
            self.is_intact = False
            # Continue as Django does: an error would leave the migration partly recorded.
            logger.warning(
                "%s has committed its transaction itself. Had this process died there, what was "
                "done would not be recorded. Such a migration needs atomic = False.",
                self.migration,
            )

    def _without_savepoint(
        self, base: type[BaseDatabaseSchemaEditor]
    ) -> type[BaseDatabaseSchemaEditor]:
        """Return a schema editor class that opens no savepoint in a migration's transaction.

        The savepoint would protect nothing, because a failure rolls back the whole transaction.
        """
        owner = self

        # The base class is known only at run time, hence the ignored errors.
        class SavepointFreeSchemaEditor(base):  # type: ignore[misc, valid-type]
            atomic_migration: bool

            def __enter__(self) -> Any:
                skips, owner._skips_savepoint = owner._skips_savepoint, False
                if not skips or not self.atomic_migration:
                    return super().__enter__()
                self.atomic_migration = False
                super().__enter__()
                self.atomic_migration, self.atomic = True, nullcontext()
                return self

        return SavepointFreeSchemaEditor
