"""Do one piece of a migration's work together with its entry in the journal.

Work that can run in a transaction is committed with its entry. Other work is marked before and
after, and is the only work in doubt after a crash.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple

from django.db import DatabaseError, DataError, IntegrityError, ProgrammingError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations import Migration
from django.db.transaction import atomic

from django_safe_init.backends.base.run_session import RunSession
from django_safe_init.backends.base.sql_effects import SQLEffect
from django_safe_init.backends.base.transaction import MigrationTransaction, Names
from django_safe_init.core.batches import store_positions
from django_safe_init.initialization.journal import (
    Journal,
    LoopPositions,
    Place,
    takes_role,
)

logger = logging.getLogger("django_safe_init")


class Unit(NamedTuple):
    """One piece of work: an operation, or a statement of a list of `RunSQL`."""

    place: Place
    #: The operation with its migration, for messages.
    title: str
    #: The operation, without its migration.
    name: str
    fingerprint: str
    #: Changes the database.
    work: Callable[[], None]
    effect: SQLEffect
    #: False for Python code that Django does not run in a transaction.
    in_transaction: bool
    #: Django itself would run it in a transaction, so it never runs without one.
    needs_transaction: bool = False
    #: It is one statement, so an error leaves nothing behind.
    is_statement: bool = False


class UnitRunner:
    """Does the work of one migration in one direction, piece by piece.

    `check` is called in each transaction with the names that are recorded. `limit` calls a
    function, whose work is undone if it raises, until it gets its locks.
    """

    def __init__(
        self,
        migration: Migration,
        session: RunSession,
        transaction: MigrationTransaction,
        journal: Journal,
        check: Callable[[Names], None],
        *,
        backwards: bool,
        limit: Callable[[str, Callable[[], None]], None] | None,
    ) -> None:
        self.session = session
        self.transaction = transaction
        self.connection: BaseDatabaseWrapper = transaction.connection
        self.journal = journal
        self.backwards = backwards
        #: The schema editor of the migration, while Django runs it.
        self.editor: Any = None
        self._check = check
        self._limit = limit
        #: True if the current work may have renamed what the deferred SQL refers to.
        self._may_have_renamed = False
        self._title = f"{journal.migration}: deferred SQL"
        self._recorded_names: Names = {
            (migration.app_label, migration.name),
            *migration.replaces,
        }
        done = (each.detail or {} for each in journal.entries())
        repeated = [text for each in done for text in each.get("session", ())]
        transaction.has_own_lock_timeout = False
        self._note_session(repeated)

    def use(self, editor: Any) -> None:
        """Use the schema editor of the migration, and notice when it renames something."""
        self.editor = editor
        for name in ("alter_db_table", "alter_field", "_alter_field"):
            setattr(editor, name, self._noting_renames(getattr(editor, name)))

    def _noting_renames(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def run(*args: Any, **kwargs: Any) -> Any:
            self._may_have_renamed = True
            return method(*args, **kwargs)

        return run

    def _note_session(self, statements: Iterable[str]) -> None:
        """Note the settings of the migration that change how this package writes."""
        for statement in statements:
            if "LOCK_TIMEOUT" in statement.upper():
                self.transaction.has_own_lock_timeout = True
            if takes_role(statement):
                self.journal.has_own_role = True

    def run(self, unit: Unit) -> None:
        """Do the work, together with its entry or between two."""
        if not unit.in_transaction or unit.effect.refuses_transaction:
            self._run_bare(unit)
            return
        try:
            self._run_limited(unit)
        except Exception as exc:
            if (
                unit.needs_transaction
                or self.transaction.is_committed
                or not self.session.needs_no_transaction(exc)
            ):
                raise
            logger.info(
                "%s does not run in a transaction, so it runs without one: %s",
                unit.title,
                exc,
            )
            self._run_bare(unit)

    def _run_limited(self, unit: Unit) -> None:
        """Do the work in a transaction, again and again until it gets its locks.

        A statement that can commit a part of its work must not be undone, so it waits.
        """
        limit = None if unit.effect.may_commit else self._limit
        if limit is None:
            self._run_in_transaction(unit, limited=False)
            return
        after_commit: list[Exception] = []

        def attempt() -> None:
            try:
                self._run_in_transaction(unit, limited=True)
            except Exception as exc:
                if not self.transaction.is_committed:
                    raise
                after_commit.append(exc)  # of a function of `on_commit`

        limit(unit.title, attempt)
        for error in after_commit:
            raise error

    def _run_in_transaction(self, unit: Unit, *, limited: bool) -> None:
        restore = self.journal.checkpoint()
        try:
            with self._transaction(unit.title, limited=limited):
                unit.work()
                self._store(unit)
        except Exception:
            if not self.transaction.is_committed:
                restore()
                self.journal.reset_deferred(self.editor)
            raise

    def _run_bare(self, unit: Unit) -> None:
        journal, number = self.journal, unit.place[0]
        is_started = journal.is_started(unit.place, unit.fingerprint)
        is_turned = journal.has_positions(number, backwards=not self.backwards)
        if is_turned or not is_started:
            with self._transaction(unit.title, limited=False):
                if is_turned:
                    # The loops of the other direction begin anew after this work.
                    journal.forget_positions(number)
                if not is_started:
                    journal.start(unit.place, unit.fingerprint, self._before(unit))
        alias = self.connection.alias
        positions = LoopPositions(
            journal, number, unit.name, alias, backwards=self.backwards
        )
        try:
            with store_positions(positions):
                unit.work()
        except DatabaseError as exc:
            if self._left_nothing(unit, exc):
                journal.settle(unit.place, done=False)
            raise
        self.transaction.require_none(unit.title)
        # The work cannot be undone, so its entry waits for locks as long as it must.
        with self._transaction(unit.title, limited=False):
            self._store(unit)

    def _before(self, unit: Unit) -> dict[str, Any]:
        """Return the detail of the mark: what tells afterwards if the work was done."""
        detail: dict[str, Any] = {"name": unit.name}
        effect = unit.effect
        if effect.is_repeatable:
            detail["repeatable"] = True
        if effect.concurrent_index is not None:
            detail["index"] = effect.concurrent_index
            detail["action"] = effect.action
            condition = self.session.index_condition(
                self.connection, effect.concurrent_index
            )
            before = [*condition.leftovers, *([""] if condition.exists else [])]
            detail["before"] = before
        return detail

    def _left_nothing(self, unit: Unit, error: BaseException) -> bool:
        """Return True if the failed work cannot have had an effect."""
        is_lost = self.connection.connection is None or not self.connection.is_usable()
        return (
            unit.is_statement
            and unit.effect.concurrent_index is None
            and not unit.effect.controls_transaction
            and not unit.effect.may_commit
            and not is_lost
        )

    def _store(self, unit: Unit) -> None:
        with self.journal.together():
            self.journal.store_deferred(
                self.editor,
                unit.place[0],
                backwards=self.backwards,
                may_have_renamed=self._may_have_renamed,
            )
            self._may_have_renamed = False
            if not unit.place[1]:
                self.journal.forget_positions(unit.place[0])
                self.journal.forget_statements(unit.place[0])
            self._finish(unit.place, unit.fingerprint, list(unit.effect.session))

    def record(self, unit: Unit, session: list[str], *, changed: bool) -> None:
        """Record an operation whose statements are all done."""
        with self._transaction(unit.title, limited=False):
            self.journal.forget_statements(unit.place[0])
            self._note_session(session)
            detail = {"session": session} if session else None
            self.journal.finish(unit.place, unit.fingerprint, detail, changed=changed)

    def _finish(self, place: Place, mark: str, session: list[str]) -> None:
        self._note_session(session)
        # A statement of a list is recorded until its operation is.
        changed = place[1] > 0 or self.backwards is self.journal.recorded
        detail = {"session": session} if session else None
        self.journal.finish(place, mark, detail, changed=changed)

    @contextmanager
    def _transaction(self, title: str, *, limited: bool = True) -> Iterator[None]:
        """Commit the block as one transaction, in which this process leads."""
        transaction = self.transaction
        # A role that the migration has taken may be unable to read the record.
        has_own_role = self.journal.has_own_role
        transaction.begin_operation(
            title,
            set() if has_own_role else self._recorded_names,
            (lambda names: None) if has_own_role else self._check,
            limited=limited,
        )
        try:
            yield
        except BaseException as exc:
            transaction.close(exc)
            raise
        transaction.close()

    def run_deferred(self) -> None:
        """Execute the deferred SQL, each statement together with the end of its entry."""
        for item in list(self.editor.deferred_sql):
            self._run_one_deferred(item)
            self.editor.deferred_sql.remove(item)

    def run_deferred_of(self, number: int) -> None:
        """Execute what the operation has deferred in the other direction.

        The operation is about to be taken back. SQL that fails is left out, because what it was
        to make is taken back, too.
        """
        for item in self.journal.deferred_of(number, backwards=not self.backwards):
            try:
                with atomic(using=self.connection.alias):
                    self.editor.execute(item, None)
            except (DataError, IntegrityError, ProgrammingError) as exc:
                logger.warning("%s is left out, and undone next: %s", self._title, exc)
            self.journal.finish_deferred(item)
            self.editor.deferred_sql.remove(item)

    def _run_one_deferred(self, item: Any) -> None:
        restore = self.journal.checkpoint()
        bare = False

        def attempt() -> None:
            nonlocal bare
            try:
                if bare:
                    self.editor.execute(item, None)
                with self._transaction(self._title, limited=not bare):
                    if not bare:
                        self.editor.execute(item, None)  # as Django does
                    self.journal.finish_deferred(item)
            except Exception as exc:
                restore()
                if bare or not self.session.needs_no_transaction(exc):
                    raise
                bare = True
                attempt()

        if self._limit is None:
            attempt()
        else:
            self._limit(self._title, attempt)
