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
from collections.abc import Callable
from typing import Any

import psycopg
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations import Migration
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.signals import pre_migrate

from django_safe_init.exceptions import InitializationFailed, LockLost
from django_safe_init.recorder import Recorder
from django_safe_init.states import State
from django_safe_init.unfinished import Unfinished, start_detail

logger = logging.getLogger("django_safe_init")

#: How Django finds out, when it leaves a savepoint of the transaction.
_ENDED_BY_ITSELF = (
    psycopg.errors.NoActiveSqlTransaction,
    psycopg.errors.InvalidSavepointSpecification,
)


class Tracker:
    """One `migrate` of a leader, from plan to `post_migrate`. A context manager.

    `verify` raises `LockLost` unless this process leads; it is called at every boundary.
    `started` and `finished` are to be called where Django calls its progress callback.
    """

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        verify: Callable[[], None],
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
        #: Whether that one is undone as a whole if it fails.
        self.current_is_atomic = False
        self._has_plan = False
        self._recorded_before: frozenset[tuple[str, str]] = frozenset()
        self._transaction: transaction.Atomic | None = None

    def __enter__(self) -> Tracker:
        recorded = MigrationRecorder(self.connection).applied_migrations()
        self._recorded_before = frozenset(recorded)
        pre_migrate.connect(self._planned)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        pre_migrate.disconnect(self._planned)
        if self.current is not None:
            self._close_transaction(*exc_info)
            if isinstance(getattr(exc_info[1], "__cause__", None), _ENDED_BY_ITSELF):
                raise InitializationFailed(
                    f"{self.current} ended its own transaction (COMMIT or ROLLBACK in its SQL), "
                    "so what it did may be committed and is not recorded. "
                    "Such a migration needs atomic = False."
                ) from exc_info[1]

    def _planned(
        self,
        using: str,
        plan: list[tuple[Migration, bool]] | None = None,
        **kwargs: Any,
    ) -> None:
        # Sent once per app, before the first migration.
        if using == self.connection.alias and plan is not None and not self._has_plan:
            self._has_plan = True
            self.recorder.total = len(plan)
            self.recorder.update(State.MIGRATING, "pre_migrate")

    def started(self, migration: Migration, *, backwards: bool, fake: bool) -> None:
        """Django is about to do the migration."""
        self.verify()
        name = f"{migration.app_label}.{migration.name}"
        self.current = name
        atomic = migration.atomic or fake
        detail = None
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

    def finished(self, *, fake: bool) -> None:
        """Django has done and recorded the migration; on return it is committed."""
        self._close_transaction(None, None, None)
        name, self.current = self.current, None
        assert name is not None  # Django says "start" before it says "success"
        self.current_is_atomic = False
        self.applied.append(name)
        self.recorder.finish_step("faked" if fake else "done")
        if self.recorder.done == self.recorder.total:
            self.recorder.update(State.MIGRATING, "post_migrate")

    def _open_transaction(self, migration: Migration) -> None:
        self._transaction = transaction.atomic(using=self.connection.alias)
        self._transaction.__enter__()
        names = {(migration.app_label, migration.name), *migration.replaces}
        if self._recorded_now(names) != names & self._recorded_before:
            raise LockLost(
                f"The record of {self.current} was changed meanwhile by somebody who does not "
                "take the leader lock."
            )

    def _recorded_now(self, names: set[tuple[str, str]]) -> set[tuple[str, str]]:
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT app, name FROM django_migrations WHERE app || '.' || name = ANY(%s)",
                [[f"{app}.{name}" for app, name in names]],
            )
            return set(cursor.fetchall())

    def _close_transaction(self, *exc_info: Any) -> None:
        opened, self._transaction = self._transaction, None
        if opened is None:
            return
        doomed = self.connection.needs_rollback or self.connection.closed_in_transaction
        if exc_info[0] is None and doomed:
            # Django's atomic() would roll back here without a word.
            opened.__exit__(InitializationFailed, InitializationFailed(), None)
            raise InitializationFailed(
                f"{self.current} left its transaction broken: everything it did is undone."
            )
        opened.__exit__(*exc_info)
