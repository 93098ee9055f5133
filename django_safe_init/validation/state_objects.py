"""Name the tables and columns that a state of the migrations requires.

They are derived without rendering the models, because a state in the middle of the migrations may
lack a model that an app without migrations refers to.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any, NamedTuple

from django.db import connection
from django.db.backends.utils import strip_quotes, truncate_name
from django.db.migrations.state import ModelState, ProjectState

from django_safe_init.backends.base.introspection import TableName
from django_safe_init.core.findings import FindingKind, finding_key
from django_safe_init.validation.model_schema import column_of, table_name

#: The column that `order_with_respect_to` adds. No field of the state stands for it.
_ORDER = "_order"


class Owner(NamedTuple):
    """The part of a state that requires a table or a column."""

    app_label: str
    #: The lower-case name of the model.
    model: str
    #: The field with a column or a many-to-many table; empty for the model's table.
    field: str = ""
    #: The position of a column in a many-to-many table, which outlives renames; None for others.
    position: int | None = None


class Place(NamedTuple):
    """The name of a table or a column in the database."""

    table: TableName
    column: str | None = None

    @property
    def key(self) -> str:
        """Return the key of the finding that the table or column is missing."""
        if self.column is None:
            return finding_key(FindingKind.MISSING_TABLE, str(self.table))
        return finding_key(FindingKind.MISSING_COLUMN, f"{self.table}.{self.column}")


def owners(state: ProjectState) -> Iterator[Owner]:
    """Yield the owners of all tables and columns of the state."""
    for label, name in state.models:
        yield from owners_of(state, label, name)


def owners_of(state: ProjectState, label: str, name: str) -> Iterator[Owner]:
    """Yield the owners of a model's tables and columns."""
    model = state.models[label, name]
    yield Owner(label, name)
    for field in (*model.fields, _ORDER):
        yield Owner(label, name, field)
        if field in model.fields and model.fields[field].many_to_many:
            yield from (Owner(label, name, field, position) for position in range(3))


def place_of(state: ProjectState, owner: Owner) -> Place | None:
    """Return the place that the state gives the owner, or None if it needs none."""
    model = state.models.get((owner.app_label, owner.model))
    if model is None or model.options.get("proxy"):
        return None
    table = _db_table(model)
    if not owner.field:
        return Place(table_name(table))
    if owner.field == _ORDER and model.options.get("order_with_respect_to"):
        return Place(table_name(table), _ORDER)
    field = model.fields.get(owner.field)
    if field is None:
        return None
    if field.many_to_many:
        return _many_to_many_place(model, table, field, owner)
    bound = copy(field)
    # ProjectState.resolve_fields_and_relations sets it, and a rename keeps it.
    bound.name = None
    bound.set_attributes_from_name(owner.field)
    return Place(table_name(table), column_of(bound)) if bound.column else None


def _db_table(model: ModelState) -> str:
    default = f"{model.app_label}_{model.name_lower}"
    return model.options.get("db_table") or _truncated(default)


def _truncated(name: str) -> str:
    # Django shortens the names for the default database too.
    return truncate_name(name, connection.ops.max_name_length())


def _many_to_many_place(
    model: ModelState, table: str, field: Any, owner: Owner
) -> Place | None:
    if field.remote_field.through is not None:
        return None  # a model of the state
    default = _truncated(f"{strip_quotes(table)}_{owner.field}")
    name = table_name(field.db_table or default)
    if owner.position is None:
        return Place(name)
    target = str(field.remote_field.model).rpartition(".")[2].lower()
    ends = [model.name_lower, model.name_lower if target == "self" else target]
    if ends[0] == ends[1]:
        ends = [f"from_{ends[0]}", f"to_{ends[1]}"]
    return Place(name, ("id", *(f"{end}_id" for end in ends))[owner.position])
