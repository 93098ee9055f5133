"""Find the objects that models require and a database does not have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field

from django_safe_init.backends.base.introspection import (
    BaseIntrospection,
    Catalog,
    Relation,
    TableKeys,
    TableName,
    Unique,
)
from django_safe_init.core.findings import FindingKind
from django_safe_init.validation.key_diff import (
    PresentTable,
    missing_foreign_keys,
    missing_indexes,
)
from django_safe_init.validation.model_keys import foreign_keys_of
from django_safe_init.validation.model_schema import Table, column_of
from django_safe_init.validation.schema_difference import SchemaDifference

Found = Sequence[tuple[Table, Relation | None]]


def structure_differences(
    tables: Iterable[Table],
    catalog: Catalog,
    migrated: Collection[str],
    connection: BaseDatabaseWrapper,
) -> Iterator[SchemaDifference]:
    """Yield the tables, then the columns that the database does not have.

    `migrated` holds the labels of the apps with migrations. An app without migrations needs its
    tables only if one of them exists: otherwise `migrate --run-syncdb` was never run for it.
    """
    found = _found(tables, catalog)
    yield from _tables(found, migrated)
    yield from _missing_columns(found, catalog, connection)


def differences(
    tables: Iterable[Table],
    introspection: BaseIntrospection,
    migrated: Collection[str],
    connection: BaseDatabaseWrapper,
    is_wanted: Callable[[FindingKind], bool],
) -> Iterator[SchemaDifference]:
    """Yield the objects of wanted kinds that the database does not have.

    First tables, then columns, then uniqueness, indexes and foreign keys, which is the order of
    their repair. `structure_differences` explains `migrated`.
    """
    tables = list(tables)
    foreign_keys = {table.model: tuple(foreign_keys_of(table)) for table in tables}
    targets = {each.target for found in foreign_keys.values() for each in found}
    catalog = introspection.catalog({table.name for table in tables} | targets)
    found = _found(tables, catalog)
    missing = list(_tables(found, migrated))
    yield from missing
    yield from _missing_columns(found, catalog, connection)
    keys = introspection.table_keys()
    yield from _missing_uniques(found, catalog, keys, connection)
    present = [
        PresentTable(
            table,
            relation,
            keys[catalog.normalize(table.name)],
            foreign_keys[table.model],
        )
        for table, relation in found
        if relation is not None and keys
    ]
    if is_wanted(FindingKind.MISSING_INDEX):
        yield from missing_indexes(present, catalog, introspection, connection)
    if is_wanted(FindingKind.MISSING_FOREIGN_KEY):
        missing_tables = {each.table.name for each in missing}
        yield from missing_foreign_keys(present, catalog, keys, missing_tables)


def _found(tables: Iterable[Table], catalog: Catalog) -> Found:
    return [
        (table, catalog.find(table.name))
        for table in tables
        if catalog.can_tell(table.name)
    ]


def _tables(found: Found, migrated: Collection[str]) -> Iterator[SchemaDifference]:
    created = {*migrated, *(table.app_label for table, relation in found if relation)}
    for table, relation in found:
        if relation is None and table.app_label in created:
            yield SchemaDifference(FindingKind.MISSING_TABLE, table)


def _missing_columns(
    found: Found, catalog: Catalog, connection: BaseDatabaseWrapper
) -> Iterator[SchemaDifference]:
    for table, relation in found:
        if relation is not None:
            yield from _columns(table, relation, catalog, connection)


def _missing_uniques(
    found: Found,
    catalog: Catalog,
    keys: Mapping[TableName, TableKeys],
    connection: BaseDatabaseWrapper,
) -> Iterator[SchemaDifference]:
    for table, relation in found:
        if relation is not None:
            own = keys.get(catalog.normalize(table.name))
            yield from _uniques(table, relation, own, catalog, connection)


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
            yield SchemaDifference(
                FindingKind.MISSING_COLUMN, table, relation, field=field
            )


def _uniques(
    table: Table,
    relation: Relation,
    keys: TableKeys | None,
    catalog: Catalog,
    connection: BaseDatabaseWrapper,
) -> Iterator[SchemaDifference]:
    for unique in table.uniques:
        if keys is not None and _is_surely_enforced(unique, relation, keys):
            continue  # the usual case
        if (
            not catalog.enforces(relation, unique)
            and not _comes_with_its_column(unique, relation, catalog)
            and all(_is_stored(field, connection) for field in unique.fields)
        ):
            columns = catalog.normalize_columns(unique.columns)
            yield SchemaDifference(
                FindingKind.MISSING_UNIQUE,
                table,
                relation,
                unique=unique,
                lacks_data=not relation.columns.issuperset(columns),
            )


def _is_surely_enforced(unique: Unique, relation: Relation, keys: TableKeys) -> bool:
    columns = unique.columns
    return (
        bool(columns)
        and not unique.nulls_equal
        and relation.columns.issuperset(columns)
        and keys.is_unique(columns)
    )


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
