"""Find the foreign keys and indexes that models require and a database does not have."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.introspection import (
    BaseIntrospection,
    Catalog,
    Relation,
    TableIndex,
    TableKeys,
    TableName,
)
from django_safe_init.core.findings import FindingKind
from django_safe_init.validation.model_keys import (
    RequiredForeignKey,
    RequiredIndex,
    indexes_of,
)
from django_safe_init.validation.model_schema import Table
from django_safe_init.validation.schema_difference import SchemaDifference


class PresentTable(NamedTuple):
    """A table of a model that exists in the database."""

    table: Table
    relation: Relation
    keys: TableKeys
    #: The foreign keys that the model requires.
    foreign_keys: tuple[RequiredForeignKey, ...]


def missing_indexes(
    tables: Sequence[PresentTable],
    catalog: Catalog,
    introspection: BaseIntrospection,
    connection: BaseDatabaseWrapper,
) -> Iterator[SchemaDifference]:
    """Yield the indexes that the tables do not have.

    A partitioned table is left out, because PostgreSQL uses the indexes of its partitions.
    """
    unserved: dict[TableName, tuple[PresentTable, list[RequiredIndex]]] = {}
    for each in tables:
        if not each.relation.indexable or each.relation.partitioned_by:
            continue
        left = [
            index
            for index in indexes_of(each.table, connection, catalog.features)
            if not _is_present(index, each, catalog)
        ]
        if left:
            unserved[catalog.normalize(each.table.name)] = each, left
    if not unserved:
        return
    present = introspection.indexes(unserved)
    for name, (found, left) in unserved.items():
        yield from _missing(found, left, present[name], catalog, connection)


def _is_present(index: RequiredIndex, found: PresentTable, catalog: Catalog) -> bool:
    """Return True if the table surely has the index, or only lacks it with its column."""
    if index.declared is None:
        [column] = catalog.normalize_columns(filter(None, index.columns))
        if column not in found.relation.columns:
            return True
        if index.for_patterns:
            return found.keys.has_pattern_index(column)
        return found.keys.has_index((column,))
    if not index.is_usual:
        return False
    columns = catalog.normalize_columns(filter(None, index.columns))
    return found.relation.columns.issuperset(columns) and found.keys.has_index(columns)


def _missing(
    found: PresentTable,
    required: Sequence[RequiredIndex],
    present: Sequence[TableIndex],
    catalog: Catalog,
    connection: BaseDatabaseWrapper,
) -> Iterator[SchemaDifference]:
    """Yield the required indexes that no present index serves."""
    names = {index.name for index in present}
    left = [
        each
        for each in required
        # An index with the name of the model's is taken as it is.
        if _name(each, found, catalog, connection) not in names
        and not any(_is_equal(index, _normalized(each, catalog)) for index in present)
    ]
    others = _unclaimed(found, present, catalog, connection) if left else []
    for each in left:
        index = _normalized(each, catalog)
        substitute = next((i for i in others if _replaces(i, index)), None)
        if substitute is None:
            columns = {*filter(None, index.columns), *index.included}
            yield SchemaDifference(
                FindingKind.MISSING_INDEX,
                found.table,
                found.relation,
                index=each,
                lacks_data=not found.relation.columns.issuperset(columns),
            )
        elif _may_be(substitute, index):
            others.remove(substitute)


def _name(
    index: RequiredIndex,
    found: PresentTable,
    catalog: Catalog,
    connection: BaseDatabaseWrapper,
) -> str:
    name = index.name_for(found.table.model, connection)
    return catalog.normalize_identifier(name)


def _unclaimed(
    found: PresentTable,
    present: Sequence[TableIndex],
    catalog: Catalog,
    connection: BaseDatabaseWrapper,
) -> list[TableIndex]:
    """Return the indexes that the model does not require: an operator has created them."""
    required = [
        _normalized(each, catalog)
        for each in indexes_of(found.table, connection, catalog.features)
    ]
    names = {_name(each, found, catalog, connection) for each in required}
    uniques = found.table.uniques
    names |= {catalog.normalize_identifier(each.name) for each in uniques if each.name}
    combinations = [{*catalog.normalize_columns(each.columns)} for each in uniques]
    return [
        index
        for index in present
        if index.name not in names
        and {*index.keys} not in combinations
        and not any(_is_equal(index, each) for each in required)
    ]


def _normalized(index: RequiredIndex, catalog: Catalog) -> RequiredIndex:
    """Return the index with its columns as in the catalog."""
    normalize = catalog.normalize_identifier
    return index._replace(
        columns=tuple(each and normalize(each) for each in index.columns),
        included=catalog.normalize_columns(index.included),
    )


def _is_equal(index: TableIndex, required: RequiredIndex) -> bool:
    """Return True if the index has the required columns, method and order, for all rows."""
    return (
        _begins_with(index, required)
        and len(index.keys) == len(required.columns)
        and not required.is_partial
    )


def _replaces(index: TableIndex, required: RequiredIndex) -> bool:
    """Return True if an operator may have created the index in place of the required one."""
    return _begins_with(index, required) or _may_be(index, required)


def _begins_with(index: TableIndex, required: RequiredIndex) -> bool:
    """Return True if the index serves all queries that the required one is for."""
    count = len(required.columns)
    return (
        not index.partial
        and None not in required.columns
        and index.method == required.method
        and index.keys[:count] == required.columns
        and _has_order(index.descending[:count], required.descending)
        and _has_operator_classes(index, required)
        and {*index.keys, *index.included}.issuperset(required.included)
    )


def _has_order(present: tuple[bool, ...], required: tuple[bool, ...]) -> bool:
    """Return True if the order is the required one, forwards or backwards."""
    return present in (required, tuple(not each for each in required))


def _has_operator_classes(index: TableIndex, required: RequiredIndex) -> bool:
    if required.for_patterns:
        return index.operator_classes[0].name.endswith("_pattern_ops")
    return all(
        present.name == wanted if wanted else present.is_default
        for present, wanted in zip(
            index.operator_classes, required.operator_classes, strict=False
        )
    )


def _may_be(index: TableIndex, required: RequiredIndex) -> bool:
    """Return True if the index may be the required one under another name.

    The catalog shows expressions and conditions in another notation than Django's, so only their
    places are compared.
    """
    return (
        (required.is_partial or None in required.columns)
        and index.partial == required.is_partial
        and index.method == required.method
        and index.keys == required.columns
    )


def missing_foreign_keys(
    tables: Sequence[PresentTable],
    catalog: Catalog,
    keys: Mapping[TableName, TableKeys],
    missing_tables: Collection[TableName],
) -> Iterator[SchemaDifference]:
    """Yield the foreign keys that the tables do not have."""
    for found in tables:
        if not found.relation.indexable:
            continue
        for each in found.foreign_keys:
            target = catalog.find(each.target)
            lacks_target = each.target in missing_tables or (
                target is not None
                and not catalog.has_column(target, each.target_column)
            )
            if catalog.has_column(found.relation, each.column) and (
                lacks_target
                or (target and not _has_foreign_key(found, each, target, catalog, keys))
            ):
                yield SchemaDifference(
                    FindingKind.MISSING_FOREIGN_KEY,
                    found.table,
                    found.relation,
                    foreign_key=each,
                    lacks_data=lacks_target,
                )


def _has_foreign_key(
    found: PresentTable,
    foreign_key: RequiredForeignKey,
    target: Relation,
    catalog: Catalog,
    keys: Mapping[TableName, TableKeys],
) -> bool:
    """Return True if the table has the foreign key, or cannot have it."""
    column, target_column = catalog.normalize_columns(
        (foreign_key.column, foreign_key.target_column)
    )
    return not target.supports_unique(frozenset({target_column})) or (
        found.keys.references(
            column, keys[catalog.normalize(foreign_key.target)], target_column
        )
    )
