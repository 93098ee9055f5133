"""The transaction in which an atomic migration is done, and recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from psycopg.pq import TransactionStatus

from django_safe_init.exceptions import InitializationFailed
from django_safe_init.sending import Sent

logger = logging.getLogger("django_safe_init")

Names = set[tuple[str, str]]

_RECORDED = "SELECT app, name FROM django_migrations WHERE "


class MigrationTransaction:
    """One transaction after the other on one connection, each for one migration.

    They commit without waiting for the disk. Whatever commits later is on disk later
    (PostgreSQL manual, 28.4): a crash of the server loses whole migrations with their records,
    newest first, and the run's end, which does wait, is never on disk before all of them are.
    What `on_commit()` starts outside of the database cannot be lost like that, so before it the
    commit waits.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        #: The migration that the open transaction is for.
        self.migration = ""
        self._atomic: transaction.Atomic | None = None
        self._shares = False
        self._sent: Sent | None = None
        connection.SchemaEditorClass = self._sharing(connection.SchemaEditorClass)

    def open(
        self, migration: str, names: Names, check: Callable[[Names], None], plain: bool
    ) -> None:
        """Begin, and let `check` judge which of the names the transaction sees as recorded.

        It is called before the first statement of the migration, and before any code of its
        own; `plain` says that it has none.
        """
        self.migration = migration
        self._atomic = transaction.atomic(using=self.connection.alias)
        self._atomic.__enter__()
        self._shares = True
        self._look(names, check, plain)

    def _look(self, names: Names, check: Callable[[Names], None], plain: bool) -> None:
        """Send the beginning, and wait for it when the first statement follows.

        Meanwhile Django works out what the migration changes, which takes longer.
        """
        raw = self.connection.connection
        level = raw.isolation_level
        begin = (
            f"BEGIN ISOLATION LEVEL {level.name.replace('_', ' ')}"
            if level
            else "BEGIN"
        )
        self._sent = Sent(
            raw,
            f"{begin}; SET LOCAL synchronous_commit = off; {_RECORDED}{_is_one_of(names)}",
            _flat(names),
        )
        self._check = check
        self.connection.execute_wrappers.append(self._watch)
        if not plain:
            self._confirm()

    def _confirm(self) -> None:
        sent, self._sent = self._sent, None
        if sent is not None:
            self._check(set(sent.rows()))

    def close(self, *exc_info: Any) -> None:
        """Commit, or roll back because of the exception. Does nothing if none is open."""
        atomic, self._atomic = self._atomic, None
        self._shares = False
        if atomic is not None:
            self._close(atomic, exc_info)

    def _close(self, atomic: transaction.Atomic, exc_info: tuple[Any, ...]) -> None:
        self.connection.execute_wrappers.remove(self._watch)
        if self._sent is not None:
            self._sent.settle()  # it broke off before its first statement
            self._sent = None
        if exc_info[0] is None and self.connection.run_on_commit:
            with self.connection.cursor() as cursor:
                cursor.execute("SET LOCAL synchronous_commit TO DEFAULT")
        doomed = self.connection.needs_rollback or self.connection.closed_in_transaction
        if exc_info[0] is None and doomed:
            # Django's atomic() would roll back here without a word.
            atomic.__exit__(InitializationFailed, InitializationFailed(), None)
            raise InitializationFailed(
                f"{self.migration} left its transaction broken: everything it did is undone."
            )
        atomic.__exit__(*exc_info)

    def _watch(self, execute: Callable[..., Any], *args: Any) -> Any:
        """Notice a statement that ends the transaction, which Django does not."""
        self._confirm()
        result = execute(*args)
        raw = self.connection.connection
        if raw is not None and raw.info.transaction_status == TransactionStatus.IDLE:
            if args[-1]["cursor"].statusmessage == "ROLLBACK":
                raise InitializationFailed(
                    f"{self.migration} has ROLLBACK in its SQL, so what it did before is undone "
                    "and would be recorded as done. Such a migration needs atomic = False."
                )
            # It goes on as with Django: to stop here would leave it half recorded.
            logger.warning(
                "%s has COMMIT in its SQL. Had this process died there, what was done would be "
                "committed and not recorded. Such a migration needs atomic = False.",
                self.migration,
            )
        return result

    def _sharing(
        self, base: type[BaseDatabaseSchemaEditor]
    ) -> type[BaseDatabaseSchemaEditor]:
        """A schema editor that works in the transaction of its migration, without a savepoint.

        The savepoint would protect nothing: its failure undoes the whole transaction.
        """
        owner = self

        # The ignored errors: the base is whatever the connection has, known only when it runs.
        class SharingSchemaEditor(base):  # type: ignore[misc, valid-type]
            atomic_migration: bool

            def __enter__(self) -> Any:
                shares, owner._shares = owner._shares, False
                if not shares or not self.atomic_migration:
                    return super().__enter__()
                self.atomic_migration = False
                super().__enter__()
                self.atomic_migration, self.atomic = True, nullcontext()
                return self

        return SharingSchemaEditor


def _is_one_of(names: Names) -> str:
    return " OR ".join(["app = %s AND name = %s"] * len(names))


def _flat(names: Names) -> list[str]:
    return [part for name in names for part in name]
