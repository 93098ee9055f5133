"""Django's `migrate`, watched: each migration is fenced, recorded, and done exactly once.

Django records a migration with deferred SQL, and every reversal, in a transaction of its own
after that of the work. A process that dies between the two leaves a database that no `migrate`
can repair. Here both happen in one transaction, which is opened when Django says that it
starts a migration and committed when it says that it is done. Those two moments are what
`migration_progress_callback` tells a command, and they enclose doing and recording in every
executor; so no executor has to be replaced, and other packages may bring theirs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations import Migration
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.signals import pre_migrate
from psycopg.pq import TransactionStatus

from django_safe_init.exceptions import InitializationFailed, LockLost
from django_safe_init.locks.postgresql import Proof
from django_safe_init.recorder import Recorder
from django_safe_init.states import State
from django_safe_init.unfinished import Unfinished, start_detail

logger = logging.getLogger("django_safe_init")


class Tracker:
    """One `migrate` of a leader, from plan to `post_migrate`. A context manager.

    `verify` raises `LockLost` unless this process leads, by the proof it is given or by one
    that it makes; it is called at every boundary.
    `started` and `finished` are to be called where Django calls its progress callback.
    """

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        verify: Callable[[Proof | None], object],
        recorder: Recorder,
        unfinished: Unfinished,
    ) -> None:
        self.connection = connection
        self.verify = verify
        self.recorder = recorder
        self.unfinished = unfinished
        #: The migrations that are done and recorded, in order.
        self.applied: list[str] = []
        #: The migration that is being done.
        self.current: str | None = None
        #: Whether its own code runs.
        self.at_work = False
        #: Whether that one is undone as a whole if it fails.
        self.current_is_atomic = False
        self._has_plan = False
        self._thread = threading.current_thread()
        self._shares = False
        self._recorded_before: frozenset[tuple[str, str]] = frozenset()
        self._transaction: transaction.Atomic | None = None
        connection.SchemaEditorClass = self._sharing(connection.SchemaEditorClass)

    def __enter__(self) -> Tracker:
        recorded = MigrationRecorder(self.connection).applied_migrations()
        self._recorded_before = frozenset(recorded)
        pre_migrate.connect(self._planned)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        pre_migrate.disconnect(self._planned)
        if self.current is not None:
            self._close_transaction(*exc_info)

    def _planned(
        self,
        using: str,
        plan: list[tuple[Migration, bool]] | None = None,
        **kwargs: Any,
    ) -> None:
        # Sent once per app, before the first migration; by each run of this process.
        mine = self._thread is threading.current_thread()
        if not mine or using != self.connection.alias:
            return
        if plan is not None and not self._has_plan:
            self._has_plan = True
            self.recorder.total = len(plan)
            self.recorder.update(State.MIGRATING, "pre_migrate")

    def started(self, migration: Migration, *, backwards: bool, fake: bool) -> None:
        """Django is about to do the migration."""
        name = f"{migration.app_label}.{migration.name}"
        self.current = name
        atomic = migration.atomic or fake
        detail = None
        if not atomic or name in self.unfinished.marks:
            self.verify(None)
        if not fake:
            self.unfinished.settle(self.connection, migration, backwards)
        if not atomic:
            detail = start_detail(self.connection, migration)
        self.current_is_atomic = atomic
        self.recorder.start_step(
            name, backwards=backwards, atomic=atomic, detail=detail
        )
        if atomic:
            self._open_transaction(migration)
        # After both were on their way together; nothing of the migration has happened yet.
        self.verify(self.recorder.proof())
        self.at_work = True

    def finished(self, *, fake: bool) -> None:
        """Django has done and recorded the migration; on return it is committed."""
        self.at_work = False
        self._close_transaction(None, None, None)
        name, self.current = self.current, None
        assert name is not None  # Django says "start" before it says "success"
        self.current_is_atomic = False
        self.applied.append(name)
        self.recorder.finish_step("faked" if fake else "done")
        if self.recorder.done == self.recorder.total:
            self.recorder.update(State.MIGRATING, "post_migrate")

    def _sharing(
        self, base: type[BaseDatabaseSchemaEditor]
    ) -> type[BaseDatabaseSchemaEditor]:
        """A schema editor that works in the transaction of its migration, without a savepoint.

        The savepoint would protect nothing: its failure undoes the whole transaction.
        """
        tracker = self

        class SharingSchemaEditor(base):  # type: ignore[misc, valid-type]
            atomic_migration: bool

            def __enter__(self) -> Any:
                shares, tracker._shares = tracker._shares, False
                if not shares or not self.atomic_migration:
                    return super().__enter__()
                self.atomic_migration = False
                super().__enter__()
                self.atomic_migration, self.atomic = True, nullcontext()
                return self

        return SharingSchemaEditor

    def _open_transaction(self, migration: Migration) -> None:
        self._transaction = transaction.atomic(using=self.connection.alias)
        self._transaction.__enter__()
        self._shares = True
        self.connection.execute_wrappers.append(self._watch)
        names = {(migration.app_label, migration.name), *migration.replaces}
        if self._recorded_now(names) != names & self._recorded_before:
            raise LockLost(
                f"The record of {self.current} was changed meanwhile by somebody who does not "
                "take the leader lock."
            )

    def _recorded_now(self, names: set[tuple[str, str]]) -> set[tuple[str, str]]:
        rows = ", ".join(["(%s, %s)"] * len(names))
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT app, name FROM django_migrations WHERE (app, name) IN ({rows})",
                [part for name in names for part in name],
            )
            return set(cursor.fetchall())

    def _watch(self, execute: Callable[..., Any], *args: Any) -> Any:
        """Notice a statement that ends the transaction, which Django does not."""
        result = execute(*args)
        raw = self.connection.connection
        if raw is not None and raw.info.transaction_status == TransactionStatus.IDLE:
            if args[-1]["cursor"].statusmessage == "ROLLBACK":
                raise InitializationFailed(
                    f"{self.current} has ROLLBACK in its SQL, so what it did before is undone "
                    "and would be recorded as done. Such a migration needs atomic = False."
                )
            # It goes on as with Django: to stop here would leave it half recorded.
            logger.warning(
                "%s has COMMIT in its SQL. Had this process died there, what was done would be "
                "committed and not recorded. Such a migration needs atomic = False.",
                self.current,
            )
        return result

    def _close_transaction(self, *exc_info: Any) -> None:
        opened, self._transaction = self._transaction, None
        self._shares = False
        if opened is None:
            return
        self.connection.execute_wrappers.remove(self._watch)
        doomed = self.connection.needs_rollback or self.connection.closed_in_transaction
        if exc_info[0] is None and doomed:
            # Django's atomic() would roll back here without a word.
            opened.__exit__(InitializationFailed, InitializationFailed(), None)
            raise InitializationFailed(
                f"{self.current} left its transaction broken: everything it did is undone."
            )
        opened.__exit__(*exc_info)
