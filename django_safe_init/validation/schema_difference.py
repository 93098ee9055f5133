"""Describe a difference between the models and the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import Field

from django_safe_init.backends.base.introspection import Relation, Unique
from django_safe_init.core.findings import FindingKind
from django_safe_init.validation.model_keys import RequiredForeignKey, RequiredIndex
from django_safe_init.validation.model_schema import Table, column_of


@dataclass(frozen=True)
class SchemaDifference:
    """An object that a model requires and the database does not have."""

    kind: FindingKind
    table: Table
    #: The table in the database, unless it is the missing object.
    relation: Relation | None = None
    field: Field[Any, Any] | None = None
    unique: Unique | None = None
    index: RequiredIndex | None = None
    foreign_key: RequiredForeignKey | None = None
    #: True if the object needs another one that is missing, and that no repair can bring back.
    lacks_data: bool = False

    @property
    def object(self) -> str:
        """Return the name of the missing object."""
        table = self.table.name
        if self.field is not None:
            return f"{table}.{column_of(self.field)}"
        if self.unique is not None:
            return self.unique.name or f"{table} ({', '.join(self.unique.columns)})"
        if self.foreign_key is not None:
            return f"{table} ({self.foreign_key.column})"
        if self.index is None:
            return str(table)
        return self.index.name or f"{table} ({self.index.description})"

    @property
    def message(self) -> str:
        """Return a sentence that names the missing object, its table and its model."""
        table, model = self.table.name, self.table.model._meta.label
        if self.field is not None:
            column = column_of(self.field)
            return f"The table {table} of {model} has no column {column}."
        if self.foreign_key is not None:
            key = self.foreign_key
            return (
                f"The table {table} of {model} lacks the foreign key {key.column} "
                f"to {key.target} ({key.target_column})."
            )
        if self.index is not None:
            name = self.index.name or f"on ({self.index.description})"
            return f"The table {table} of {model} lacks the index {name}."
        if self.unique is None:
            return f"The table {table} of {model} is missing."
        columns = ", ".join(self.unique.columns)
        if self.unique.primary_key:
            return f"The table {table} of {model} has no primary key ({columns})."
        name = self.unique.name or f"on ({columns})"
        return f"The table {table} of {model} lacks the unique constraint {name}."
