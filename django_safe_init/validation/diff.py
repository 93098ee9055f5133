"""What the models need, against what is there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field

from django_safe_init.backends.base.introspection import Catalog, Relation, Unique
from django_safe_init.core.findings import FindingKind
from django_safe_init.validation.model_schema import Table, column_of


@dataclass(frozen=True)
class SchemaDifference:
    """A table, a column of one, or its uniqueness, that a model needs and that is not there."""

    kind: FindingKind
    table: Table
    field: Field[Any, Any] | None = None
    unique: Unique | None = None

    @property
    def object(self) -> str:
        """What is missing, in short."""
        table = self.table.name
        if self.field is not None:
            return f"{table}.{column_of(self.field)}"
        if self.unique is None:
            return str(table)
        return self.unique.name or f"{table} ({', '.join(self.unique.columns)})"

    @property
    def message(self) -> str:
        """What is missing, in a sentence."""
        table, model = self.table.name, self.table.model._meta.label
        if self.field is not None:
            column = column_of(self.field)
            return f"The table {table} of {model} has no column {column}."
        if self.unique is None:
            return f"The table {table} of {model} is missing."
        if self.unique.primary_key:
            columns = ", ".join(self.unique.columns)
            return f"The table {table} of {model} has no primary key ({columns})."
        return f"The table {table} of {model} lacks the unique constraint {self._name}."

    @property
    def _name(self) -> str:
        assert self.unique is not None
        return self.unique.name or f"on ({', '.join(self.unique.columns)})"


def differences(
    tables: Iterable[Table],
    catalog: Catalog,
    migrated: Collection[str],
    connection: BaseDatabaseWrapper,
) -> Iterator[SchemaDifference]:
    """What is not there, tables first.

    `migrated` are the labels of the apps with migrations. The tables of another app are needed
    only if one of them is there: otherwise nobody has asked Django to make them.
    """
    found = [
        (table, catalog.find(table.name))
        for table in tables
        if catalog.can_tell(table.name)
    ]
    made = {*migrated, *(table.label for table, relation in found if relation)}
    for table, relation in found:
        if relation is None and table.label in made:
            yield SchemaDifference(FindingKind.MISSING_TABLE, table)
    for table, relation in found:
        if relation is not None:
            yield from _columns(table, relation, catalog, connection)
    for table, relation in found:
        if relation is not None:
            yield from _uniques(table, relation, catalog, connection)


def _columns(
    table: Table,
    relation: Relation,
    catalog: Catalog,
    connection: BaseDatabaseWrapper,
) -> Iterator[SchemaDifference]:
    for field in table.fields:
        if field.column in relation.columns:
            continue  # as nearly all are
        if not catalog.has_column(relation, column_of(field)) and (
            _is_stored(field, connection)
        ):
            yield SchemaDifference(FindingKind.MISSING_COLUMN, table, field=field)


def _uniques(
    table: Table,
    relation: Relation,
    catalog: Catalog,
    connection: BaseDatabaseWrapper,
) -> Iterator[SchemaDifference]:
    for unique in table.uniques:
        if (
            not catalog.enforces(relation, unique)
            and not _comes_with_its_column(unique, relation, catalog)
            and all(_is_stored(field, connection) for field in unique.fields)
        ):
            yield SchemaDifference(FindingKind.MISSING_UNIQUE, table, unique=unique)


def _comes_with_its_column(
    unique: Unique, relation: Relation, catalog: Catalog
) -> bool:
    """Whether it is a column's own, and the column is missing: that is told already."""
    return (
        unique.name is None
        and len(unique.columns) == 1
        and not (catalog.has_column(relation, unique.columns[0]))
    )


def _is_stored(field: Field[Any, Any], connection: BaseDatabaseWrapper) -> bool:
    """Whether the field has a column. Asked last: of thousands of fields, few are missing."""
    return field.db_parameters(connection)["type"] is not None
