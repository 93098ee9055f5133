"""Operations are named, and told apart by what they do."""

from __future__ import annotations

from functools import partial

from django.db.migrations import Migration, RunPython, RunSQL, SeparateDatabaseAndState

from django_safe_init.initialization.fingerprints import fingerprint, load_again
from django_safe_init.initialization.operation_names import name_operation
from django_safe_init.models import Operation


def first(apps, editor) -> None:
    """Do one thing."""


def second(apps, editor) -> None:
    """Do another thing."""


def test_names() -> None:
    """A name has the kind, and the object or the function."""
    operation = RunPython(first, second)
    assert name_operation(operation) == "RunPython first"
    assert name_operation(operation, backwards=True) == "RunPython second"
    assert name_operation(SeparateDatabaseAndState()) == "SeparateDatabaseAndState"


def test_fingerprints() -> None:
    """The source of a function counts; one that cannot be read does not."""
    assert fingerprint(RunPython(first)) == fingerprint(RunPython(first))
    assert fingerprint(RunPython(first)) != fingerprint(RunPython(second))
    assert fingerprint(RunPython(print)) == fingerprint(RunPython(print))
    assert fingerprint(RunSQL("a")) != fingerprint(RunSQL("b"))
    assert fingerprint(RunPython(lambda apps, editor: first(apps, editor)))


class Callable:
    """A function with a class of its own."""

    def __call__(self, apps, editor) -> None:
        """Do nothing."""


def decorated(function):
    """Return a function that does not tell which one it calls."""
    return lambda apps, editor: function(apps, editor)


def test_fingerprints_of_wrapped_functions() -> None:
    """The function behind a wrapper counts, too."""
    for wrap in (partial, decorated, lambda function: partial(partial(function))):
        one, other = (RunPython(wrap(each)) for each in (first, second))
        assert fingerprint(one) != fingerprint(other)
    assert fingerprint(RunPython(Callable())) != fingerprint(RunPython(first))


def test_a_migration_without_a_module() -> None:
    """A migration whose module cannot be loaded again counts as constant."""
    kind = type("Migration", (Migration,), {"__module__": "no_such_module"})
    assert load_again(kind("0001_initial", "shop")) is None


def test_a_row() -> None:
    """A row of the journal is shown by its migration and its place."""
    row = Operation(migration="shop.0001_a", kind="operation", position=2)
    assert str(row) == "shop.0001_a operation 2"
