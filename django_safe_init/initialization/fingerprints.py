"""Make the digests by which a changed operation of a migration is noticed."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec, module_from_spec
from typing import Any

from django.db.migrations import Migration
from django.db.migrations.operations import RunPython
from django.db.migrations.operations.base import Operation
from django.db.migrations.writer import OperationWriter


def digest(*parts: Any) -> str:
    """Return a short digest of the texts of the parts."""
    text = "\0".join(map(str, parts))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def fingerprint(operation: Operation) -> str:
    """Return a digest of the operation as `makemigrations` writes it, and of its functions.

    It is the same under every version of Python and Django. A source that cannot be read counts
    as unchanged.
    """
    return digest(type(operation).__qualname__, _written(operation), *_code(operation))


def load_again(migration: Migration) -> Migration | None:
    """Return the migration from a new load of its module; None if that fails.

    What its operations differ in was computed by the load, as by `uuid4()` or `timezone.now()`.
    """
    kind = type(migration)
    try:
        spec: Any = find_spec(kind.__module__)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        load: type[Migration] = getattr(module, kind.__qualname__)
        return load(migration.name, migration.app_label)
    except Exception:  # noqa: BLE001  (the migration's own code)
        return None


def _written(operation: Operation) -> str:
    try:
        text, _ = OperationWriter(operation, indentation=0).serialize()
    except Exception:  # noqa: BLE001  (a lambda, or an argument of a package's own class)
        return ""
    return str(text)


def _code(operation: Operation) -> Iterator[str]:
    if isinstance(operation, RunPython):
        for name in ("code", "reverse_code"):
            function = getattr(operation, name, None)
            if function is not None:
                yield _source(function)


def _source(function: Any) -> str:
    """Return the source of a function, and of the functions that a decorator has kept in it."""
    while isinstance(function, partial):
        function = function.func
    try:
        function = inspect.unwrap(function)
        is_function = inspect.isroutine(function)
        text = inspect.getsource(function if is_function else type(function))
    except (OSError, TypeError, ValueError):
        return ""
    kept = (cell.cell_contents for cell in getattr(function, "__closure__", None) or ())
    return "\0".join(
        [text, *(_source(each) for each in kept if inspect.isfunction(each))]
    )
