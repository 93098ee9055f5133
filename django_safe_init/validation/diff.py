"""Find the tables, columns and uniqueness that models require and a database does not have."""

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
    """A table, a column or a uniqueness that a model requires and the database does not have."""

    kind: FindingKind
    table: Table
    field: Field[Any, Any] | None = None
    unique: Unique | None = None

    @property
    def object(self) -> str:
        """Return the name of the missing object."""
        table = self.table.name
        if self.field is not None:
            return f"{table}.{column_of(self.field)}"
        if self.unique is None:
            return str(table)
        return self.unique.name or f"{table} ({', '.join(self.unique.columns)})"

    @property
    def message(self) -> str:
        """Return a sentence that names the missing object, its table and its model."""
        table, model = self.table.name, self.table.model._meta.label
        if self.field is not None:
            column = column_of(self.field)
            return f"The table {table} of {model} has no column {column}."
        if self.unique is None:
            return f"The table {table} of {model} is missing."
        columns = ", ".join(self.unique.columns)
        if self.unique.primary_key:
            return f"The table {table} of {model} has no primary key ({columns})."
        name = self.unique.name or f"on ({columns})"
        return f"The table {table} of {model} lacks the unique constraint {name}."


def differences(
    tables: Iterable[Table],
    catalog: Catalog,
    migrated: Collection[str],
    connection: BaseDatabaseWrapper,
) -> Iterator[SchemaDifference]:
    """Yield the objects that the database does not have: tables, then columns, then uniqueness.

    `migrated` holds the labels of the apps with migrations. An app without migrations needs its
    tables only if one of them exists: otherwise `migrate --run-syncdb` was never run for it.
    """
    found = [
        (table, catalog.find(table.name))
        for table in tables
        if catalog.can_tell(table.name)
    ]
    created = {*migrated, *(table.app_label for table, relation in found if relation)}
    for table, relation in found:
        if relation is None and table.app_label in created:
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
            continue  # the usual case, without normalizing the name
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
    """Return True if the column of a unique field is missing, which is a finding already."""
    return (
        unique.name is None
        and len(unique.columns) == 1
        and not (catalog.has_column(relation, unique.columns[0]))
    )


def _is_stored(field: Field[Any, Any], connection: BaseDatabaseWrapper) -> bool:
    """Return True if the field has a column. Slow, so it is called for missing columns only."""
    return field.db_parameters(connection)["type"] is not None
