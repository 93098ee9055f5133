"""Find the migrations whose SQL is the same in all schemas in one state.

Only Django's own code may decide about their SQL. Code of the project may depend on the schema: a
router, a callable, a field, an expression, a lookup or an operation.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import date, time, timedelta
from enum import Enum
from numbers import Number
from types import FunctionType, NoneType
from typing import Any
from uuid import UUID

from django.db import router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations import Migration, RunPython, RunSQL
from django.db.migrations.operations.base import Operation
from django.db.migrations.operations.special import SeparateDatabaseAndState
from django.db.migrations.state import ProjectState
from django.db.migrations.utils import resolve_relation
from django.db.models import F, Field, Q
from django.db.models.query_utils import RegisterLookupMixin
from django.utils.functional import LazyObject, Promise

#: The packages whose routers decide by the kind of a tenant only.
_PACKAGES_WITH_ROUTERS = ("django_pgschemas.", "django_safe_init.", "django_tenants.")
#: Callables of default values that give the same value in each schema.
_EMPTY_VALUES = (bool, dict, float, int, list, str)
#: Attributes of fields that are not in their SQL. The value of a default is, if it is no callable.
_NOT_IN_SQL = frozenset(
    (
        "_choices",
        "_error_messages",
        "_validators",
        "_verbose_name",
        "choices",
        "default",
        "error_messages",
        "help_text",
        "remote_field",
        "storage",
        "upload_to",
        "validators",
        "verbose_name",
        "violation_error_message",
    )
)
_PLAIN_VALUES = (NoneType, str, bytes, Number, Enum, date, time, timedelta, UUID)
#: Objects that call code of the project when they are used. They claim the type of their value.
_LAZY = (LazyObject, Promise)
#: Text of `RunSQL` whose effect depends on the statements before it, or lasts after it.
_SESSION_SQL = re.compile(
    r"(?:^|;)\s*(?:--[^\n]*\n\s*|/\*.*?\*/\s*)*(?:set|reset|discard|begin|start|commit|end|abort|rollback|"
    r"savepoint|release|listen|unlisten|prepare|deallocate|declare|copy|vacuum)\b"
    r"|\b(?:search_path|set_config|concurrently|temp|temporary|pg_(?:try_)?advisory\w*)\b",
    re.IGNORECASE | re.DOTALL,
)

#: The label of the app and the lower-case name of a model.
_ModelKey = tuple[str, str]


def runs_python(migration: Migration) -> bool:
    """Return True if the migration runs code that is not Django's."""
    return type(migration).apply is not Migration.apply or any(
        map(_is_python, migration.operations)
    )


def _is_python(operation: Operation) -> bool:
    if not _is_code_of_django(type(operation)):
        return True
    if isinstance(operation, SeparateDatabaseAndState):
        return any(map(_is_python, operation.database_operations))
    return isinstance(operation, RunPython)


def is_replayable(
    migration: Migration, state: ProjectState, connection: BaseDatabaseWrapper
) -> bool:
    """Return True if only Django's own code decides about the SQL of the migration.

    `state` is the state before it. Such a migration may still read the database.
    """
    if not migration.atomic or runs_python(migration):
        return False
    if not _is_class_of_django(connection.SchemaEditorClass):
        return False
    if not are_routers_known():
        return False
    operations = _Operations(migration.app_label, state)
    return all(map(operations.is_replayable, migration.operations))


def are_routers_known() -> bool:
    """Return True unless a router of the project decides what a schema gets."""
    return all(
        type(each).__module__.startswith(_PACKAGES_WITH_ROUTERS)
        for each in router.routers
        if hasattr(each, "allow_migrate")
    )


def _is_class_of_django(editor: type) -> bool:
    # The class that keeps a migration's transaction is this package's.
    names = [each.__module__ for each in editor.__mro__ if each is not object]
    return all(name.startswith(("django.", "django_safe_init.")) for name in names)


class _Operations:
    """The operations of one migration, and the state before it."""

    def __init__(self, app_label: str, state: ProjectState) -> None:
        self.app_label = app_label
        self.state = state
        self.has_own_lookups = _has_own_lookups()

    def is_replayable(self, operation: Operation) -> bool:
        """Return True unless code of the project, or the session, decides about the SQL."""
        if isinstance(operation, SeparateDatabaseAndState):
            return all(map(self.is_replayable, operation.database_operations))
        if isinstance(operation, RunSQL):
            return not _SESSION_SQL.search(_text_of(operation.sql))
        model = self.app_label, getattr(operation, "model_name_lower", "")
        parts = [*_parts_of(operation), *self._old_fields(operation, model)]
        return all(self._is_plain(part, model) for part in parts)

    def _old_fields(
        self, operation: Operation, model: _ModelKey
    ) -> list[Field[Any, Any]]:
        """Return the fields that the operation changes or removes, as they are before it."""
        known = self.state.models.get(model)
        names = (getattr(operation, name, None) for name in ("name", "old_name"))
        return [known.fields[each] for each in names if known and each in known.fields]

    def _is_plain(self, part: object, model: _ModelKey) -> bool:
        """Return True if the field, index or constraint has no code of the project."""
        objects = list(_objects_in(part))
        if not all(map(_is_of_django, objects)):
            return False
        if self.has_own_lookups and any(isinstance(each, (F, Q)) for each in objects):
            return False
        if isinstance(part, Field):
            return not _computes_default(part) and self._relates_to_django(part, model)
        return True

    def _relates_to_django(self, field: Field[Any, Any], model: _ModelKey) -> bool:
        """Return True unless a relation has the type of a key that is the project's own field."""
        left, seen = _related(field, model), set[_ModelKey]()
        while left:
            seen.add(key := left.pop())
            for each in self._keys_of(key):
                if not all(map(_is_of_django, _objects_in(each))):
                    return False
                left |= _related(each, key) - seen
        return True

    def _keys_of(self, model: _ModelKey) -> list[Field[Any, Any]]:
        """Return the fields to which a relation can be; none of a model that is not in the state.

        Another operation of the migration creates such a model, and decides about it.
        """
        known = self.state.models.get(model)
        fields: Collection[Field[Any, Any]] = known.fields.values() if known else ()
        return [each for each in fields if each.primary_key or each.unique]


def _related(field: Field[Any, Any], model: _ModelKey) -> set[_ModelKey]:
    """Return the models whose keys decide about the columns of the field of this model."""
    if not field.remote_field:
        return set()
    related = {resolve_relation(field.remote_field.model, *model)}
    # The table of a many-to-many field has the keys of both models.
    return related | {model} if field.many_to_many else related


def _has_own_lookups() -> bool:
    """Return True if the project has registered a lookup, which expressions name by a word."""
    classes, found = [RegisterLookupMixin], set[type]()
    while classes:
        found.add(current := classes.pop())
        classes += [each for each in current.__subclasses__() if each not in found]
    return not all(
        _is_code_of_django(lookup)
        for each in found
        for lookup in vars(each).get("class_lookups", {}).values()
        if lookup is not None
    )


def _parts_of(operation: Operation) -> Iterator[object]:
    """Yield the fields, indexes and constraints of the operation, whose code makes its SQL."""
    options = getattr(operation, "options", None) or {}
    yield from (field for _, field in getattr(operation, "fields", None) or ())
    yield from options.get("indexes", ())
    yield from options.get("constraints", ())
    for name in ("field", "index", "constraint"):
        if (part := getattr(operation, name, None)) is not None:
            yield part


def _objects_in(part: object) -> Iterator[object]:
    """Yield the part and each object in it, except plain values."""
    if isinstance(part, _LAZY):
        yield part
    elif isinstance(part, _PLAIN_VALUES):
        return
    elif isinstance(part, Mapping):
        yield from (found for each in part.values() for found in _objects_in(each))
    elif isinstance(part, Collection):
        yield from (found for each in part for found in _objects_in(each))
    else:
        yield part
        if _is_of_django(part) and not isinstance(part, (type, FunctionType)):
            values = getattr(part, "__dict__", {})
            for name in values.keys() - _NOT_IN_SQL:
                yield from _objects_in(values[name])


def _is_of_django(part: object) -> bool:
    """Return True if the code of the object is Django's."""
    if isinstance(part, _LAZY):
        return False
    return _is_code_of_django(
        part if isinstance(part, (type, FunctionType)) else type(part)
    )


def _is_code_of_django(code: Any) -> bool:
    return str(code.__module__).startswith("django.")


def _computes_default(field: Field[Any, Any]) -> bool:
    """Return True if Python computes the value that existing rows get."""
    if not field.has_default() or not callable(field.default):
        return False
    return field.default not in _EMPTY_VALUES


def _text_of(sql: Any) -> str:
    if isinstance(sql, str):
        return sql
    return ";\n".join(
        each if isinstance(each, str) else str(each[0]) for each in sql or ()
    )
