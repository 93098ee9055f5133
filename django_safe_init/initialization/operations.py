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

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations import Migration
from django.db.migrations.operations import (
    RunPython,
    RunSQL,
    SeparateDatabaseAndState,
)
from django.db.migrations.operations.base import Operation

from django_safe_init.backends.base.run_session import RunSession
from django_safe_init.backends.base.sql_effects import SQLEffect
from django_safe_init.backends.base.transaction import MigrationTransaction, Names
from django_safe_init.core.records import EntryState
from django_safe_init.core.text import Hint
from django_safe_init.exceptions import UnfinishedMigration
from django_safe_init.initialization.fingerprints import digest, fingerprint, load_again
from django_safe_init.initialization.journal import Journal
from django_safe_init.initialization.operation_names import name_operation
from django_safe_init.initialization.units import Unit, UnitRunner

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


def is_constant(migration: Migration, number: int) -> bool:
    """Return True unless the operation differs in two loads of the migration's module."""
    loads = load_again(migration), load_again(migration)
    marks = []
    for each in loads:
        operations = [] if each is None else list(flat(each.operations))
        marks.append(
            fingerprint(operations[number - 1]) if number <= len(operations) else ""
        )
    return marks[0] == marks[1]


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
        where: str = "",
        limit: Any = None,
        on_start: Callable[[int, int, str], None] = lambda number, total, name: None,
    ) -> None:
        self.migration = migration
        self.session = session
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
        #: The option that names the database in a command.
        self._where = where
        self._on_start = on_start
        self._units = UnitRunner(
            migration,
            session,
            transaction,
            journal,
            check,
            backwards=backwards,
            limit=limit,
        )
        self._finished = 0

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
            self._units.use(editor)
            self.journal.restore_deferred(editor)
            self.journal.repeat_session(self.connection, roles=True)
            if not self.turned:
                self._finished = sum(not self._has_work(each) for each in self._numbers)
            state = apply(state, editor, *args)
            self._note_deferred(self._units.run_deferred)
            finish()
            return state

        initial = migration.initial
        if self.journal.entries():
            migration.initial = False  # `--fake-initial` must not take it for finished
        migration.operations = self._copies(original)
        setattr(migration, method, run)
        try:
            yield
        finally:
            delattr(migration, method)
            migration.operations, migration.initial = original, initial
            self._units.transaction.has_own_lock_timeout = False

    def _note_deferred(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException:
            self._note_failure(0, "")
            raise

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
        """Return a copy whose work passes the journal; its state methods stay Django's.

        Its class overrides what Django calls, so the operation's attributes stay as they are.
        """
        made: Any = copy(operation)
        overrides: dict[str, Any] = {"atomic": _constant(False)}  # ours are enough
        if is_whole(operation):
            number = next(numbers)
            if not self._has_work(
                number
            ):  # it is of no account whether it is reversible
                overrides["reversible"] = _constant(True)
            worker = copy(operation)
            worker.__dict__ = made.__dict__  # what `state_forwards` stores is there
            for method in _METHODS:
                overrides[method] = self._through_journal(worker, number, method)
        else:
            inner: Any = operation
            copies = [self._copy(each, numbers) for each in inner.database_operations]
            overrides["database_operations"] = _constant(copies)
        kind = type(operation)
        made.__class__ = type(kind.__name__, (kind,), overrides)
        return made  # type: ignore[no-any-return]

    def _through_journal(
        self, operation: Operation, number: int, method: str
    ) -> Method:
        def run(
            made: Operation, app_label: str, editor: Any, from_state: Any, to_state: Any
        ) -> None:
            arguments = app_label, editor, from_state, to_state
            if self._parts_direction(number) is (not self.backwards):
                # A list that stopped in the other direction is completed, and then taken back.
                self._run(operation, number, _other(method), *arguments)
            if self._has_work(number):
                self._run(operation, number, method, *arguments)
                self._finished += 1

        return run

    def _parts_direction(self, number: int) -> bool | None:
        """Return True if some statements of a list ran backwards, False if forwards."""
        if not self.journal.has_statements(number):
            return None
        # Statements of an operation that is in the journal as a whole were taking it back.
        return self.journal.recorded is not self.journal.has_changed(number)

    def _has_work(self, number: int) -> bool:
        """Return True unless the journal has the operation as this direction leaves it."""
        entry = self.journal.entry((number, 0))
        if entry is not None and entry.state is not EntryState.DONE:
            return True  # in doubt, so in either direction
        is_applied = self.journal.has_changed(number) is not self.journal.recorded
        return is_applied is self.backwards

    def _run(self, operation: Operation, number: int, method: str, *args: Any) -> None:
        name = self.names[number - 1]
        self._on_start(number, len(self.names), name)
        mark = fingerprint(operation)
        try:
            unit = self._unit(operation, number, mark, method, *args)
            statements = self._statements(operation, method, *args)
            if statements is None:
                self._check_statements(number, [])
                self._units.run(unit)
            else:
                self._run_statements(unit, statements)
        except BaseException:
            self._note_failure(number, name)
            raise

    def _note_failure(self, number: int, name: str) -> None:
        statements = sum(
            each.position == number and each.part > 0 and each.state is EntryState.DONE
            for each in self.journal.entries()
        )
        finished = self._finished
        if number and not self._has_work(number):
            finished, statements = (
                finished + 1,
                0,
            )  # a function of `on_commit` has failed
        total = len(self.names)
        self.failed = FailedOperation(number, total, name, finished, statements)

    def _unit(
        self, operation: Operation, number: int, mark: str, method: str, *args: Any
    ) -> Unit:
        """Return the unit of a whole operation."""
        return Unit(
            (number, 0),
            self._title(number),
            self.names[number - 1],
            mark,
            partial(self._work, operation, number, method, *args),
            self._effect(operation, method, *args),
            in_transaction=self._wants_transaction(operation),
            needs_transaction=self._is_atomic(operation),
        )

    def _work(self, operation: Operation, number: int, method: str, *args: Any) -> None:
        self._units.run_deferred_of(number)
        getattr(operation, method)(*args)

    def _effect(
        self, operation: Any, method: str, app_label: str, editor: Any, *states: Any
    ) -> SQLEffect:
        name = self.session.concurrent_index(operation)
        if name is None:
            return SQLEffect()
        removes = self.session.removes_index(operation)
        drops = removes is (method == "database_forwards")
        model = states[0].models[app_label, operation.model_name_lower]
        table = self.connection.ops.quote_name(model.options.get("db_table", ""))
        # The usual idiom for a table in another schema is a name such as 'shop"."item'.
        schema, dot, _ = table.rpartition('"."')
        index = self.connection.ops.quote_name(name)
        return SQLEffect(
            refuses_transaction=True,
            concurrent_index=f'{schema}".{index}' if dot else index,
            action="DROP" if drops else "CREATE",
        )

    def _wants_transaction(self, operation: Operation) -> bool:
        """Return True unless the author may rely on running without a transaction."""
        return not isinstance(operation, RunPython) or self._is_atomic(operation)

    def _is_atomic(self, operation: Operation) -> bool:
        """Return True if Django itself would run the operation in a transaction."""
        atomic = getattr(operation, "atomic", None)
        return bool(atomic or (self.migration.atomic and atomic is not False))

    # Lists of SQL

    def _statements(
        self, operation: Operation, method: str, *args: Any
    ) -> list[tuple[str, Any]] | None:
        """Return the statements of a `RunSQL`, each with its parameters.

        None for another operation, and for a subclass with work of its own: it runs as a whole.
        """
        if not isinstance(operation, RunSQL) or any(
            getattr(type(operation), each) is not getattr(RunSQL, each)
            for each in (*_METHODS, "_run_sql")
        ):
            return None
        found: list[tuple[str, Any]] = []
        collector: Any = copy(operation)
        collector._run_sql = lambda editor, sqls: found.extend(
            _listed(editor.connection, sqls)
        )
        getattr(collector, method)(*args)
        return found

    def _run_statements(self, unit: Unit, statements: list[tuple[str, Any]]) -> None:
        """Run the statements that the journal does not have, and then record the operation."""
        number = unit.place[0]
        effects = [self.session.effect_of(str(sql)) for sql, _ in statements]
        whole = any(each.controls_transaction for each in effects)
        if whole or len(statements) == 1:
            self._check_statements(number, [])
            self._units.run(
                unit._replace(
                    work=lambda: self._execute(statements),
                    effect=effects[0] if len(effects) == 1 else _WITH_CONTROL,
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
            self._units.run(
                unit._replace(
                    place=(number, part),
                    fingerprint=digest(*statement),
                    work=partial(self._execute, [statement]),
                    effect=effect,
                    is_statement=True,
                )
            )
        session = [text for each in effects for text in each.session]
        backwards = self._parts_direction(number)
        backwards = self.backwards if backwards is None else backwards
        changed = backwards is self.journal.recorded
        self._units.record(unit, session, changed=changed)

    def _check_statements(self, number: int, statements: list[tuple[str, Any]]) -> None:
        """Raise `UnfinishedMigration` if a finished statement is not the same any more.

        `statements` is empty for an operation that runs as a whole.
        """
        if not self.journal.has_statements(number):
            return
        for entry in self.journal.entries():
            if entry.position != number or not entry.part:
                continue
            if entry.state is not EntryState.DONE:
                continue
            known = ["", *(digest(*each) for each in statements[entry.part - 1 :][:1])]
            if statements and entry.fingerprint in known:
                continue  # a person has named a statement without a fingerprint
            if not is_constant(self.migration, number):
                return
            name = self.journal.migration
            command = f"python manage.py safe_migrate{self._where}"
            raise UnfinishedMigration(
                Hint(
                    f"{name} is half done, and its file was changed: statement {entry.part} of "
                    f"operation {number} is finished, and is not the same any more. Restore the "
                    "file. Or look at the database, and then run the operation again as a whole "
                    "(the first command), or go on after it (the second):",
                    f"{command} --resume {name}:{number}",
                    f"{command} --resume {name}:{number + 1}",
                ),
                failed_migration=name,
            )

    def _execute(self, statements: Sequence[tuple[str, Any]]) -> None:
        for sql, params in statements:
            self._units.editor.execute(sql, params=params)

    def _title(self, number: int) -> str:
        return (
            f"{self.journal.migration}: operation {number} of {len(self.names)}"
            f" ({self.names[number - 1]})"
        )


def session_of(
    operation: Operation, session: RunSession, connection: BaseDatabaseWrapper
) -> list[str]:
    """Return the statements of the operation that change only the session."""
    if not isinstance(operation, RunSQL):
        return []
    listed = _listed(connection, operation.sql)
    return [text for sql, _ in listed for text in session.effect_of(str(sql)).session]


def count_statements(operation: Operation, connection: BaseDatabaseWrapper) -> int:
    """Return the number of statements of a list that are journaled; 0 without a list."""
    if not isinstance(operation, RunSQL):
        return 0
    count = len(_listed(connection, operation.sql))
    return count if count > 1 else 0


def _other(method: str) -> str:
    """Return the method of the other direction."""
    return _METHODS[1 - _METHODS.index(method)]


def _constant(value: Any) -> property:
    """Return a property with this value, which comes before an attribute of the instance."""
    return property(lambda operation: value)


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
