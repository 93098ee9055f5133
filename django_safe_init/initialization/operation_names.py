"""Name operations in one short line."""

from __future__ import annotations

from django.db.migrations.operations import RunPython, SeparateDatabaseAndState
from django.db.migrations.operations.base import Operation

from django_safe_init.core.text import printable

_MAX_LENGTH = 80


def name_operation(operation: Operation, *, backwards: bool = False) -> str:
    """Return the kind of the operation and the object that it changes, or the function it calls."""
    kind = type(operation).__name__
    object_name = _object_name(operation, backwards)
    return printable(f"{kind} {object_name}".strip())[:_MAX_LENGTH]


def _object_name(operation: Operation, backwards: bool) -> str:
    if isinstance(operation, RunPython):
        function = getattr(operation, "reverse_code" if backwards else "code", None)
        return str(getattr(function, "__name__", ""))
    if isinstance(operation, SeparateDatabaseAndState):
        return ""
    model = getattr(operation, "model_name", None)
    index = getattr(operation, "index", None) or getattr(operation, "constraint", None)
    name = (
        getattr(operation, "name", None)
        or getattr(operation, "new_name", None)
        or getattr(index, "name", None)
    )
    return ".".join(str(each) for each in (model, name) if each)
