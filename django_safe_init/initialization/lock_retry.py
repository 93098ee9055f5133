"""Retry a migration whose statement waited too long for a lock.

A statement that waits for a lock blocks every later statement that conflicts with it: an
`ALTER TABLE` behind one long transaction stops all readers of the table. A limit bounds that
time, and a pause between two attempts lets the readers pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations import Migration
from django.db.migrations.state import ProjectState

from django_safe_init.backends.base.lock import LockWaitTimeout
from django_safe_init.conf import LockTimeoutPolicy, get_settings
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.heartbeat import Heartbeat
from django_safe_init.core.records import Blocker
from django_safe_init.core.states import State
from django_safe_init.core.text import first_of, name_some, with_commands
from django_safe_init.exceptions import DDLLockTimeout
from django_safe_init.initialization.interrupted import database_option

if TYPE_CHECKING:
    from django_safe_init.backends.base.run_session import BaseLockTimeout, RunSession
    from django_safe_init.backends.base.transaction import MigrationTransaction

logger = logging.getLogger("django_safe_init")
Apply = Callable[[ProjectState, BaseDatabaseSchemaEditor], ProjectState]


class PartiallyApplied(DDLLockTimeout):
    """A part of the migration was applied and stays, so a follower must not resume it."""


class LockTimeoutRetry:
    """Lets Django apply migrations within the limits of `policy`.

    A migration in one transaction is rolled back as a whole and retried; any other one is not.
    Raises `DDLLockTimeout`, which names the blockers.
    """

    def __init__(
        self,
        timeout: BaseLockTimeout,
        policy: LockTimeoutPolicy,
        session: RunSession,
        transaction: MigrationTransaction,
        report: Callable[[str], None],
    ) -> None:
        self.timeout = timeout
        self.policy = policy
        self.session = session
        self.transaction = transaction
        self.report = report
        #: The sessions that blocked this attempt, as far as they were seen.
        self._blockers: tuple[Blocker, ...] = ()
        self._is_reversal = False

    @contextmanager
    def wrap(
        self, migration: Migration, *, atomic: bool, backwards: bool
    ) -> Iterator[None]:
        """Retry the migration's `apply`, or its `unapply`, in the block.

        The instance's method is replaced, which works with every executor. It is given the
        state with which each attempt must begin.
        """
        self._is_reversal = backwards
        method = "unapply" if backwards else "apply"
        apply = getattr(migration, method)

        def attempt(state: ProjectState, editor: BaseDatabaseSchemaEditor) -> Any:
            return self._run(
                f"{migration.app_label}.{migration.name}", atomic, apply, state, editor
            )

        setattr(migration, method, attempt)
        try:
            yield
        finally:
            delattr(migration, method)

    def _run(
        self,
        name: str,
        atomic: bool,
        apply: Apply,
        state: ProjectState,
        editor: BaseDatabaseSchemaEditor,
    ) -> ProjectState:
        attempt = 1
        while True:
            untouched = state.clone()  # an attempt changes the state that it is given
            try:
                return self._run_once(apply, state, editor)
            except Exception as exc:
                if not self.timeout.is_timeout(exc):
                    raise
                if not (atomic and self.transaction.is_intact):
                    raise PartiallyApplied(self._partial_message(name, atomic)) from exc
                self.transaction.close(exc)
                self._require_another(name, attempt, exc)
            self._pause(name, attempt)
            self.session.verify()
            self.transaction.retry()
            state, attempt = untouched, attempt + 1

    def watched(self) -> AbstractContextManager[None]:
        """Return a context manager that watches for blockers, for the calls of `repeat`."""
        return Heartbeat(self._note_blockers, self.policy.poll_interval)

    def repeat(self, name: str, attempt: Callable[[], None]) -> None:
        """Call `attempt`, which undoes its work if it raises, until it gets its locks."""
        number = 1
        while True:
            self._blockers = ()
            try:
                return attempt()
            except Exception as exc:
                if not self.timeout.is_timeout(exc):
                    raise
                self._require_another(name, number, exc)
            self._pause(name, number)
            self.session.verify()
            number += 1

    def _require_another(self, name: str, attempt: int, error: BaseException) -> None:
        """Raise the error of a migration that may not be tried again."""
        if attempt == self.policy.attempts:
            raise DDLLockTimeout(
                self._with_remedy(self._rolled_back_message(name, attempt))
            ) from error
        if self.timeout.deadline.passed():
            raise LockWaitTimeout(
                self._with_remedy(self._rolled_back_message(name, attempt))
            ) from error

    def _run_once(
        self, apply: Apply, state: ProjectState, editor: BaseDatabaseSchemaEditor
    ) -> ProjectState:
        """Apply the migration, and the deferred SQL that the editor executes on exit."""
        self._blockers = ()
        editor.deferred_sql.clear()
        with self.watched():
            state = apply(state, editor)
            for statement in editor.deferred_sql:
                editor.execute(statement, None)  # as Django does
        editor.deferred_sql.clear()
        return state

    def _note_blockers(self) -> None:
        # After the error the blockers are no longer visible.
        self._blockers = self.timeout.blockers() or self._blockers

    def _pause(self, name: str, attempt: int) -> None:
        """Report the timeout, and wait without a transaction, which would block others."""
        seconds, of_all = self.policy.backoff(attempt), self.policy.attempts
        why = (
            f"no lock within {self.policy.seconds:g} s (attempt {attempt} of {of_all})"
            f"{self._blocked_by()}"
        )
        logger.warning("%s is undone and tried again: %s", name, why)
        self.report(f"{name} is undone, and tried again in {seconds:.1f} s: {why}")
        self.session.recorder.progress.clear()
        self.session.recorder.update(
            State.MIGRATING,
            f"{name} (attempt {attempt + 1} of {of_all}; the last one got no lock"
            f"{self._blocked_by()})",
        )
        sleep(self.timeout.deadline.clip(seconds))

    def _blocked_by(self) -> str:
        blockers = name_some(self._blockers)
        return f"; blocked by {blockers}" if blockers else ""

    def _with_remedy(self, text: str, *commands: str) -> str:
        """Return the text with a command for each blocker, then the other commands."""
        shown, _ = first_of(self._blockers)
        ends = [self.timeout.how_to_end(each) for each in shown]
        if not ends:
            return with_commands(text, commands) if commands else text
        goal = " End the sessions first:" if commands else " To end what blocks it:"
        return with_commands(text + goal, [*ends, *commands])

    def _rolled_back_message(self, name: str, attempts: int) -> str:
        return (
            f"{name} did not get a lock within {self.policy.seconds:g} s "
            f"(attempts: {attempts}){self._blocked_by()}. It is undone. Start again "
            "when nobody uses its tables for long, or change DDL_LOCK_TIMEOUT or DDL_ATTEMPTS."
        )

    def _partial_message(self, name: str, atomic: bool) -> str:
        where = database_option(get_settings(), self.transaction.connection.alias)
        option = "" if atomic else f" --rerun {name}"
        text = (
            f"{name} did not get a lock within {self.policy.seconds:g} s"
            f"{self._blocked_by()}. It is not one transaction, so what it did before stays, "
            "and nobody who waits tries it again. Look at the database, then "
        )
        if self._is_reversal:
            return self._with_remedy(f"{text}reverse it again.")
        again = f"python manage.py safe_migrate{where}{option}"
        return self._with_remedy(f"{text}run it again:", again)
