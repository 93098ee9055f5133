"""Apply a migration that is not one transaction, operation by operation, with a journal.

Django's own `apply` and `unapply` run the operations, and its executor keeps the states. Here each
operation of one migration object is replaced by a copy, whose work on the database is left out if
the journal has it already. Other loaders share the operations themselves, so they stay.

An operation that can run in a transaction is committed together with its entry. Another one is
marked before and after, so at most one is in doubt after a crash. At the end the deferred SQL is
executed one statement at a time, and a last transaction records the migration and deletes the
journal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, NamedTuple

from django.db import DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations import Migration
from django.db.migrations.operations import (
    CreateModel,
    RunPython,
    RunSQL,
    SeparateDatabaseAndState,
)
from django.db.migrations.operations.base import Operation

from django_safe_init.backends.base.run_session import RunSession
from django_safe_init.backends.base.sql_effects import SQLEffect
from django_safe_init.backends.base.transaction import MigrationTransaction, Names
from django_safe_init.core.batches import store_positions
from django_safe_init.core.records import EntryState
from django_safe_init.core.text import Hint
from django_safe_init.exceptions import UnfinishedMigration
from django_safe_init.initialization.deferred_sql import referenced_tables
from django_safe_init.initialization.fingerprints import digest, fingerprint
from django_safe_init.initialization.journal import Journal, LoopPositions, Place
from django_safe_init.initialization.operation_names import name_operation

logger = logging.getLogger("django_safe_init")

Method = Callable[..., None]
_METHODS = ("database_forwards", "database_backwards")


class FailedOperation(NamedTuple):
    """The operation that raised the error of a migration."""

    #: From 1; 0 for deferred SQL.
    number: int
    total: int
    name: str
    #: The number of operations that are committed, and of statements of this one.
    finished: int
    statements: int = 0

    @property
    def text(self) -> str:
        """Return which operation failed, and how many are committed."""
        if self.statements:
            return (
                f"statement {self.statements + 1} of operation {self.number} of {self.total} "
                f"({self.name}) failed; {self.finished} operations and {self.statements} of its "
                "statements are committed"
            )
        done = f"{self.finished or 'none'} {'is' if self.finished < 2 else 'are'} committed"
        if not self.number:
            return f"deferred SQL failed; {done}"
        return f"operation {self.number} of {self.total} ({self.name}) failed; {done}"


def can_be_journaled(migration: Migration) -> bool:
    """Return True unless the migration's class runs its operations itself."""
    kind = type(migration)
    return kind.apply is Migration.apply and kind.unapply is Migration.unapply


def is_whole(operation: Operation) -> bool:
    """Return True unless the operation only stands for the operations inside it."""
    return not isinstance(operation, SeparateDatabaseAndState) or any(
        getattr(type(operation), method)
        is not getattr(SeparateDatabaseAndState, method)
        for method in _METHODS
    )


def flat(operations: Sequence[Operation]) -> Iterator[Operation]:
    """Yield the operations that change the database, in their order."""
    for operation in operations:
        if is_whole(operation):
            yield operation
        else:
            yield from flat(operation.database_operations)  # type: ignore[attr-defined]


class Unit(NamedTuple):
    """One piece of work: an operation, or a statement of a list of `RunSQL`."""

    place: Place
    fingerprint: str
    #: Changes the database.
    work: Callable[[], None]
    effect: SQLEffect
    #: False for Python code that Django does not run in a transaction.
    in_transaction: bool
    #: It is one statement, so an error leaves nothing behind.
    is_statement: bool = False
    may_rename: bool = True


class OperationRunner:
    """Runs the operations of one migration in one direction.

    `check` is called in each transaction with the names that are recorded.
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
        turned: bool = False,
        limit: Any = None,
        on_start: Callable[[int, int, str], None] = lambda number, total, name: None,
    ) -> None:
        self.migration = migration
        self.session = session
        self.transaction = transaction
        self.connection: BaseDatabaseWrapper = transaction.connection
        self.journal = journal
        self.backwards = backwards
        #: True if the run takes back what an earlier run has done of the migration.
        self.turned = turned
        #: The names of all operations.
        self.names = [
            name_operation(each, backwards=backwards)
            for each in flat(migration.operations)
        ]
        self.failed: FailedOperation | None = None
        self._check = check
        self._limit = limit
        self._on_start = on_start
        self._recorded_names: Names = {
            (migration.app_label, migration.name),
            *migration.replaces,
        }
        self._editor: Any = None
        self._finished = 0
        done = (each.detail or {} for each in journal.entries())
        repeated = [text for each in done for text in each.get("session", ())]
        transaction.has_own_lock_timeout = sets_lock_timeout(repeated)

    @contextmanager
    def replaced(self, finish: Callable[[], None]) -> Iterator[None]:
        """Let Django run the operations through the journal in the block.

        `finish` is called after the last one, when only the record is missing.
        """
        migration: Any = self.migration
        original = migration.operations
        method = "unapply" if self.backwards else "apply"
        apply = getattr(migration, method)

        def run(state: Any, editor: BaseDatabaseSchemaEditor, *args: Any) -> Any:
            self._editor = editor
            self.journal.restore_deferred(editor)
            if self.turned:
                self._run_deferred(only_possible=True)
            else:
                self._finished = sum(not self._has_work(each) for each in self._numbers)
            state = apply(state, editor, *args)
            self._run_deferred()
            finish()
            return state

        migration.operations = self._copies(original)
        setattr(migration, method, run)
        try:
            yield
        finally:
            delattr(migration, method)
            migration.operations = original
            self.transaction.has_own_lock_timeout = False

    @property
    def recorded(self) -> bool:
        """True if the migration was recorded when its journal began."""
        return self.journal.recorded

    @property
    def leaves_work(self) -> bool:
        """True if an operation has failed, and the journal has entries."""
        return self.failed is not None and bool(self.journal.entries())

    @property
    def _numbers(self) -> range:
        return range(1, len(self.names) + 1)

    # The copies

    def _copies(self, operations: Sequence[Operation]) -> list[Operation]:
        numbers = iter(self._numbers)
        return [self._copy(each, numbers) for each in operations]

    def _copy(self, operation: Operation, numbers: Iterator[int]) -> Operation:
        """Return a copy whose work passes the journal; its state methods stay Django's."""
        made: Any = copy(operation)
        made.atomic = False  # this package begins the transactions
        if not is_whole(operation):
            made.database_operations = [
                self._copy(each, numbers) for each in made.database_operations
            ]
            return made  # type: ignore[no-any-return]
        number = next(numbers)
        if not self._has_work(number):
            made.__class__ = _reversible(type(operation))
        for method in _METHODS:
            setattr(made, method, self._through_journal(operation, number, method))
        return made  # type: ignore[no-any-return]

    def _through_journal(
        self, operation: Operation, number: int, method: str
    ) -> Method:
        def run(app_label: str, editor: Any, from_state: Any, to_state: Any) -> None:
            if self._has_work(number):
                self._run(
                    operation, number, method, app_label, editor, from_state, to_state
                )

        return run

    def _has_work(self, number: int) -> bool:
        """Return True unless the journal has the operation as this direction leaves it."""
        is_applied = self.journal.has_changed(number) is not self.journal.recorded
        return is_applied is self.backwards

    def _run(self, operation: Operation, number: int, method: str, *args: Any) -> None:
        name = self.names[number - 1]
        self._on_start(number, len(self.names), name)
        mark = fingerprint(operation)
        try:
            statements = self._statements(operation, method, *args)
            if statements is None:
                self.run_unit(self._unit(operation, number, mark, method, *args))
            else:
                self._run_statements(number, mark, statements)
        except BaseException:
            self._note_failure(number, name)
            raise
        self._finished += 1

    def _note_failure(self, number: int, name: str) -> None:
        statements = sum(
            each.position == number and each.part > 0 and each.state is EntryState.DONE
            for each in self.journal.entries()
        )
        total = len(self.names)
        self.failed = FailedOperation(number, total, name, self._finished, statements)

    def _unit(
        self, operation: Operation, number: int, mark: str, method: str, *args: Any
    ) -> Unit:
        """Return the unit of a whole operation."""
        return Unit(
            (number, 0),
            mark,
            lambda: getattr(operation, method)(*args),
            self._effect(operation, method),
            in_transaction=self._wants_transaction(operation),
            may_rename=type(operation) is not CreateModel,
        )

    def _effect(self, operation: Operation, method: str) -> SQLEffect:
        name = self.session.concurrent_index(operation)
        if name is None:
            return SQLEffect()
        removes = self.session.removes_index(operation)
        drops = removes is (method == "database_forwards")
        return SQLEffect(
            refuses_transaction=True,
            concurrent_index=self.connection.ops.quote_name(name),
            action="DROP" if drops else "CREATE",
        )

    def _wants_transaction(self, operation: Operation) -> bool:
        """Return True unless the author may rely on running without a transaction."""
        if not isinstance(operation, RunPython):
            return True
        atomic = operation.atomic
        return bool(atomic or (self.migration.atomic and atomic is not False))

    # Lists of SQL

    def _statements(
        self, operation: Operation, method: str, *args: Any
    ) -> list[tuple[str, Any]] | None:
        """Return the statements of a `RunSQL`, each with its parameters.

        None for another operation, and for one that has only one statement, or that begins and
        ends transactions itself: it runs as a whole.
        """
        if not isinstance(operation, RunSQL) or (
            type(operation)._run_sql is not RunSQL._run_sql  # type: ignore[attr-defined]
        ):
            return None
        found: list[tuple[str, Any]] = []
        collector: Any = copy(operation)
        collector._run_sql = lambda editor, sqls: found.extend(
            _listed(editor.connection, sqls)
        )
        getattr(collector, method)(*args)
        return found

    def _run_statements(
        self, number: int, mark: str, statements: list[tuple[str, Any]]
    ) -> None:
        """Run the statements that the journal does not have, and then record the operation."""
        effects = [self.session.effect_of(sql) for sql, _ in statements]
        whole = any(each.controls_transaction for each in effects)
        if whole or len(statements) == 1:
            self.run_unit(
                Unit(
                    (number, 0),
                    mark,
                    lambda: self._execute(statements),
                    effects[0] if len(effects) == 1 else _WITH_CONTROL,
                    in_transaction=not whole,
                    is_statement=len(statements) == 1 and not whole,
                )
            )
            return
        self._check_statements(number, statements)
        for part, (statement, effect) in enumerate(
            zip(statements, effects, strict=True), 1
        ):
            entry = self.journal.entry((number, part))
            if entry is not None and entry.state is EntryState.DONE:
                continue
            self.run_unit(
                Unit(
                    (number, part),
                    digest(*statement),
                    lambda statement=statement: self._execute([statement]),  # type: ignore[misc]
                    effect,
                    in_transaction=True,
                    is_statement=True,
                )
            )
        session = [text for each in effects for text in each.session]
        with self._transaction(number):
            self.journal.forget_statements(number)
            self._toggle((number, 0), mark, session)

    def _check_statements(self, number: int, statements: list[tuple[str, Any]]) -> None:
        """Raise `UnfinishedMigration` if a finished statement is not the same any more."""
        for entry in self.journal.entries():
            if entry.position != number or not entry.part or not entry.fingerprint:
                continue
            if entry.state is not EntryState.DONE:
                continue
            if entry.part <= len(statements) and (
                digest(*statements[entry.part - 1]) == entry.fingerprint
            ):
                continue
            name = self.journal.migration
            raise UnfinishedMigration(
                Hint(
                    f"{name} is half done, and its file was changed: statement {entry.part} of "
                    f"operation {number} is finished, and is not the same any more. Restore the "
                    "file. Or look at the database, and then run the operation again as a whole "
                    "(the first command), or go on after it (the second):",
                    f"python manage.py safe_migrate --resume {name}:{number}",
                    f"python manage.py safe_migrate --resume {name}:{number + 1}",
                ),
                failed_migration=name,
            )

    def _execute(self, statements: Sequence[tuple[str, Any]]) -> None:
        for sql, params in statements:
            self._editor.execute(sql, params=params)

    # Units

    def run_unit(self, unit: Unit) -> None:
        """Do the work, together with its entry or between two."""
        attempt = self._attempt(unit)
        if self._limit is None or not self._is_limited(unit):
            attempt()
        else:
            self._limit(self._title(unit.place[0]), attempt)

    def _attempt(self, unit: Unit) -> Callable[[], None]:
        bare = not unit.in_transaction or unit.effect.refuses_transaction

        def attempt() -> None:
            nonlocal bare
            if not bare:
                restore = self.journal.checkpoint()
                try:
                    self._run_in_transaction(unit)
                    return
                except Exception as exc:
                    restore()
                    self.journal.reset_deferred(self._editor)
                    if not self.session.needs_no_transaction(exc):
                        raise
                    logger.info(
                        "%s does not run in a transaction, so it runs without one: %s",
                        self._title(unit.place[0]),
                        exc,
                    )
                    bare = True
            self._run_bare(unit)

        return attempt

    def _is_limited(self, unit: Unit) -> bool:
        """Return True if the unit can be tried again after a time-out."""
        if unit.effect.concurrent_index is not None or not unit.in_transaction:
            return False
        return unit.is_statement or not unit.effect.refuses_transaction

    def _run_in_transaction(self, unit: Unit) -> None:
        with self._transaction(unit.place[0]):
            unit.work()
            self._store(unit)

    def _run_bare(self, unit: Unit) -> None:
        journal = self.journal
        entry = journal.entry(unit.place)
        is_marked = entry is not None and entry.state is not EntryState.DONE
        if not is_marked:
            journal.start(unit.place, unit.fingerprint, self._before(unit))
        number = unit.place[0]
        positions = LoopPositions(
            journal, number, self.connection.alias, backwards=self.backwards
        )
        try:
            with self._without_transaction(unit), store_positions(positions):
                unit.work()
        except DatabaseError as exc:
            if self._left_nothing(unit, exc):
                journal.settle(unit.place, done=False)
            raise
        self.transaction.require_none(self._title(unit.place[0]))
        with self._transaction(unit.place[0]):
            self._store(unit)

    def _before(self, unit: Unit) -> dict[str, Any]:
        """Return the detail of the mark: what tells afterwards if the work was done."""
        detail: dict[str, Any] = {"name": self.names[unit.place[0] - 1]}
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

    @contextmanager
    def _without_transaction(self, unit: Unit) -> Iterator[None]:
        timeout = self.session.lock_timeout
        limited = timeout is not None and timeout.policy is not None
        if limited and unit.is_statement and self._is_limited(unit):
            assert timeout is not None
            with timeout.limited(self.connection):
                yield
        else:
            yield

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
        self.journal.store_deferred(
            self._editor, unit.place[0], may_rename=unit.may_rename
        )
        if not unit.place[1]:
            self.journal.forget_positions(unit.place[0])
        self._toggle(unit.place, unit.fingerprint, list(unit.effect.session))

    def _toggle(self, place: Place, mark: str, session: list[str]) -> None:
        if sets_lock_timeout(session):
            self.transaction.has_own_lock_timeout = True
        self.journal.toggle(place, mark, {"session": session} if session else None)

    @contextmanager
    def _transaction(self, number: int) -> Iterator[None]:
        """Commit the block as one transaction, in which this process leads."""
        transaction = self.transaction
        transaction.begin_operation(
            self._title(number), self._recorded_names, self._check
        )
        try:
            yield
        except BaseException as exc:
            transaction.close(exc)
            raise
        transaction.close()

    def _title(self, number: int) -> str:
        migration = f"{self.migration.app_label}.{self.migration.name}"
        if not number:
            return f"{migration}: deferred SQL"
        return (
            f"{migration}: operation {number} of {len(self.names)}"
            f" ({self.names[number - 1]})"
        )

    # Deferred SQL

    def _run_deferred(self, *, only_possible: bool = False) -> None:
        """Execute the deferred SQL, each statement together with the end of its entry.

        With `only_possible`, SQL for a table that does not exist yet is left out: the operation
        to which it belongs is about to be undone.
        """
        editor = self._editor
        tables = self._tables() if only_possible and editor.deferred_sql else None
        for item in list(editor.deferred_sql):
            if tables is None or referenced_tables(item) <= tables:
                self._run_one_deferred(item)
            else:
                with self._transaction(0):
                    self.journal.finish_deferred(item)
            editor.deferred_sql.remove(item)

    def _tables(self) -> set[str]:
        with self.connection.cursor() as cursor:
            return set(self.connection.introspection.table_names(cursor))

    def _run_one_deferred(self, item: Any) -> None:
        restore = self.journal.checkpoint()
        bare = False

        def attempt() -> None:
            nonlocal bare
            try:
                if bare:
                    self._editor.execute(item, None)
                with self._transaction(0):
                    if not bare:
                        self._editor.execute(item, None)  # as Django does
                    self.journal.finish_deferred(item)
            except Exception as exc:
                restore()
                if bare or not self.session.needs_no_transaction(exc):
                    raise
                bare = True
                attempt()

        try:
            if self._limit is None:
                attempt()
            else:
                self._limit(self._title(0), attempt)
        except BaseException:
            self._note_failure(0, "")
            raise


def sets_lock_timeout(statements: Iterable[str]) -> bool:
    """Return True if one of the statements sets the lock time-out of the session."""
    return any("lock_timeout" in each.lower() for each in statements)


def session_of(
    operation: Operation, session: RunSession, connection: BaseDatabaseWrapper
) -> list[str]:
    """Return the statements of the operation that change only the session."""
    if not isinstance(operation, RunSQL):
        return []
    listed = _listed(connection, operation.sql)
    return [text for sql, _ in listed for text in session.effect_of(sql).session]


def _reversible(kind: type[Operation]) -> type[Operation]:
    """Return a class for an operation without work: whether it is reversible is of no account."""
    return type(kind.__name__, (kind,), {"reversible": True})


#: A script that begins and ends transactions itself.
_WITH_CONTROL = SQLEffect(controls_transaction=True, refuses_transaction=True)


def _listed(connection: Any, sqls: Any) -> list[tuple[str, Any]]:
    """Return the statements with their parameters, as `RunSQL` splits them."""
    if not isinstance(sqls, (list, tuple)):
        if sqls == RunSQL.noop:
            return []
        return [(sql, None) for sql in connection.ops.prepare_sql_script(sqls)]
    found = []
    for sql in sqls:
        if not isinstance(sql, (list, tuple)):
            found.append((sql, None))
        elif len(sql) == 2:
            found.append((sql[0], sql[1]))
        else:
            raise ValueError(f"Expected a 2-tuple but got {len(sql)}")
    return found
