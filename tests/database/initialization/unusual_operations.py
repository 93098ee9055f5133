"""Operations as packages write them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import migrations
from django.db.backends.ddl_references import Statement
from django.db.migrations.operations.base import Operation
from django.db.models import F, Func, Q, TextField, Value
from django.db.models.lookups import Exact
from django.utils.functional import SimpleLazyObject, lazystr


class SQLAndMore(migrations.RunSQL):
    """Executes a statement before its SQL, and another one after it."""

    def database_forwards(self, app_label, editor, *states: Any) -> None:
        """Execute the statements."""
        editor.execute("INSERT INTO before VALUES (1)")
        super().database_forwards(app_label, editor, *states)
        editor.execute("INSERT INTO made VALUES (1)")


class Remembering(Operation):
    """Stores a value for the database in `state_forwards`."""

    reversible = True

    def state_forwards(self, app_label, state) -> None:
        """Remember the number of models."""
        self.models = len(state.models)

    def database_forwards(self, app_label, editor, *states: Any) -> None:
        """Use the value."""
        editor.execute(f"INSERT INTO before VALUES ({self.models})")

    def database_backwards(self, app_label, editor, *states: Any) -> None:
        """Use the forward method, as Django's own operations do."""
        self.database_forwards(app_label, editor, *states)


class CodeOfItsOwn(migrations.RunPython):
    """Has no function, and calls no method of its base."""

    atomic = True

    def __init__(self) -> None:
        pass

    def deconstruct(self) -> Any:
        """Return no arguments."""
        return type(self).__name__, [], {}

    def database_forwards(self, app_label, editor, *states: Any) -> None:
        """Execute a statement."""
        editor.execute("INSERT INTO before VALUES (1)")


class Computed(migrations.SeparateDatabaseAndState):
    """Computes its operations each time."""

    def __init__(self) -> None:
        super().__init__()

    @property
    def database_operations(self) -> list[Operation]:
        """Return new operations."""
        return [
            migrations.RunSQL(["CREATE TABLE made (x integer)"], "DROP TABLE made"),
            migrations.RunSQL(["INSERT INTO before VALUES (1)"], ""),
        ]

    @database_operations.setter
    def database_operations(self, value: Any) -> None:
        """Ignore the base's assignment."""


class Call(Operation):
    """Calls a function of the test, in a transaction only if it asks for one."""

    reversible = True

    def __init__(self, code: Any, atomic: bool = False) -> None:
        self.code, self.atomic = code, atomic

    def state_forwards(self, app_label, state) -> None:
        """Change nothing."""

    def database_forwards(self, app_label, editor, *states: Any) -> None:
        """Call the function."""
        self.code(None, editor)

    def database_backwards(self, app_label, editor, *states: Any) -> None:
        """Do nothing."""


class Deferring(Operation):
    """Adds an object to the deferred SQL that is no reference."""

    reversible = True

    def __init__(self, sql: str) -> None:
        self.sql = sql

    def state_forwards(self, app_label, state) -> None:
        """Change nothing."""

    def database_forwards(self, app_label, editor, *states: Any) -> None:
        """Add the object."""
        editor.deferred_sql.append(Statement("%(sql)s", sql=lazystr(self.sql)))

    def database_backwards(self, app_label, editor, *states: Any) -> None:
        """Do nothing."""


class Own(Func):
    """An expression of a project, whose SQL may depend on anything."""

    function = "lower"
    arity = 1


class OwnField(TextField):  # type: ignore[type-arg]
    """A field of a project."""


@contextmanager
def own_lookup() -> Iterator[None]:
    """Let fields have a lookup of a project."""

    class Same(Exact):
        lookup_name = "same"

    TextField.register_lookup(Same)
    try:
        yield
    finally:
        TextField._unregister_lookup(Same)


def own_check(name: str) -> Q:
    """Return a condition with an expression of a project, deep inside."""
    return ~Q(name=Own(Value("X"))) | Q(name=F("name"))


LAZY = lazystr("INSERT INTO before VALUES (1)")
#: Collations that code of a project could choose.
LAZY_COLLATIONS = {"text": lazystr("C"), "object": SimpleLazyObject(lambda: "C")}
