"""The contract of an introspection: values that describe a schema, the same for each engine.

`validation` compares these values with the models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.models import Field, UniqueConstraint

from django_safe_init.core.findings import FindingKind


class TableName(NamedTuple):
    """The name of a table as a model gives it.

    Without a schema, the search path decides which table the name refers to.
    """

    schema: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


class Unique(NamedTuple):
    """A uniqueness that a model requires: a primary key, a unique field or a constraint."""

    #: Empty for a constraint on expressions, which is found by its name only.
    columns: tuple[str, ...]
    fields: tuple[Field[Any, Any], ...]
    primary_key: bool = False
    #: The constraint in `Meta.constraints`, if the model declares the uniqueness there.
    constraint: UniqueConstraint | None = None

    @property
    def name(self) -> str | None:
        """Return the name of the constraint, or None if the model does not name it."""
        return self.constraint.name if self.constraint else None

    @property
    def nulls_equal(self) -> bool:
        """Return True if two NULLs count as equal."""
        return self.constraint is not None and self.constraint.nulls_distinct is False

    @property
    def features(self) -> frozenset[str]:
        """Return the features that a database needs before Django creates the constraint."""
        constraint: Any = self.constraint
        needs = {
            "deferrable": constraint and constraint.deferrable is not None,
            "include": constraint and bool(constraint.include),
            "nulls_distinct": constraint and constraint.nulls_distinct is not None,
        }
        return frozenset(name for name, needed in needs.items() if needed)

    @property
    def key(self) -> tuple[object, ...]:
        """Return a key that is equal for the same uniqueness in two states of a model."""
        return (self.columns, self.name, self.primary_key)


class UniqueIndex(NamedTuple):
    """A unique index or primary key of a table in the database."""

    name: str
    #: The key columns.
    columns: frozenset[str]
    #: True if the index applies to these columns in all rows: no condition, no expression.
    plain: bool = True
    #: True if two NULLs count as equal.
    nulls_equal: bool = False

    def covers(self, columns: frozenset[str], nulls_equal: bool) -> bool:
        """Return True if the index makes the combination of these columns unique."""
        return (
            self.plain
            and bool(self.columns)
            and self.columns <= columns
            and (self.nulls_equal or not nulls_equal)
        )


class Relation(NamedTuple):
    """A table in the database, or a view or foreign table in its place."""

    columns: frozenset[str]
    uniques: Iterable[UniqueIndex] = ()
    #: False for a relation that cannot have unique indexes, such as a view.
    indexable: bool = True
    #: The columns of the partition key; empty for a table without partitions.
    partitioned_by: frozenset[str] = frozenset()

    def supports_unique(self, columns: frozenset[str]) -> bool:
        """Return True if the engine can make these columns unique over the whole table."""
        return self.indexable and self.partitioned_by <= columns


@dataclass(frozen=True)
class Catalog:
    """The relations of a database among the table names that were asked for."""

    relations: Mapping[TableName, Relation]
    #: Converts an identifier of Django to the form in the database's catalog.
    normalize_identifier: Callable[[str], str] = str
    #: The features of the database, in the terms of `Unique.features`. "index_methods" stands for
    #: methods and operator classes, "pattern_indexes" for the extra indexes for LIKE.
    features: frozenset[str] = frozenset()
    #: True if the catalog includes tables outside the search path.
    all_schemas: bool = True

    def can_tell(self, name: TableName) -> bool:
        """Return True if the catalog shows whether the table exists."""
        return self.all_schemas or name.schema is None

    def find(self, name: TableName) -> Relation | None:
        """Return the relation with the name, or None if it does not exist."""
        return self.relations.get(self.normalize(name))

    def normalize(self, name: TableName) -> TableName:
        """Return the table's name as a key of `relations`."""
        schema = name.schema and self.normalize_identifier(name.schema)
        return TableName(schema, self.normalize_identifier(name.name))

    def normalize_columns(self, columns: Iterable[str]) -> tuple[str, ...]:
        """Return the columns' names as in the catalog."""
        return tuple(map(self.normalize_identifier, columns))

    def has_column(self, relation: Relation, column: str) -> bool:
        """Return True if the relation has the column."""
        return self.normalize_identifier(column) in relation.columns

    def enforces(self, relation: Relation, unique: Unique) -> bool:
        """Return True if the relation enforces the uniqueness, or cannot enforce it at all."""
        columns = frozenset(map(self.normalize_identifier, unique.columns))
        nulls_equal = unique.nulls_equal
        for index in relation.uniques:
            if index.covers(columns, nulls_equal):
                return True
        if not relation.supports_unique(columns):
            return True
        if not unique.features <= self.features:
            return True  # Django does not create the constraint on this database
        name = unique.name and self.normalize_identifier(unique.name)
        return any(index.name == name for index in relation.uniques)


class OperatorClass(NamedTuple):
    """The operator class of a key of an index."""

    name: str = ""
    is_default: bool = True


class TableIndex(NamedTuple):
    """An index of a table in the database, unique or not."""

    name: str
    #: The key columns in order; None for an expression.
    keys: tuple[str | None, ...]
    #: For each key, True if it is in descending order.
    descending: tuple[bool, ...]
    operator_classes: tuple[OperatorClass, ...]
    method: str = "btree"
    #: The columns of INCLUDE.
    included: frozenset[str] = frozenset()
    #: True if the index applies only to the rows of a condition.
    partial: bool = False


class TableKeys(ABC):
    """The foreign keys and the usual indexes of one table, with names as in the catalog.

    A usual index is a valid B-tree of columns in ascending order, with the default operator
    classes, for all rows. `BaseIntrospection.indexes` describes the others, too.
    """

    @abstractmethod
    def has_index(self, columns: Sequence[str]) -> bool:
        """Return True if a usual index has exactly these columns in this order."""

    def has_pattern_index(self, column: str) -> bool:
        """Return True if an index serves LIKE on the column."""
        return False

    @abstractmethod
    def is_unique(self, columns: Sequence[str]) -> bool:
        """Return True if a usual index makes these columns unique, in this order."""

    @abstractmethod
    def references(self, column: str, target: Any, target_column: str) -> bool:
        """Return True if a foreign key leads from the column to the column of the target.

        `target` has the keys of the other table. The foreign key may have more columns.
        """


class CatalogIssue(NamedTuple):
    """An object that the database itself marks as unfinished, such as an invalid index."""

    kind: FindingKind
    object: str
    message: str
    #: The statement that repairs the object; None if no single statement can.
    repair: str | None


class BaseIntrospection(ABC):
    """Reads the catalog of one database for validation. Writes nothing and takes no lock."""

    @abstractmethod
    def recorded_migrations(self) -> list[str]:
        """Return the rows of `django_migrations` as `app.name`, oldest first.

        Raise `MissingPrivilege` if the role may not read the table.
        """

    @abstractmethod
    def catalog(self, names: Iterable[TableName]) -> Catalog:
        """Return the relations with these names."""

    def table_keys(self) -> Mapping[TableName, TableKeys]:
        """Return the keys of the tables of the last `catalog()`, by the names in it.

        Empty if this engine's foreign keys and indexes are not compared.
        """
        return {}

    def indexes(
        self, tables: Collection[TableName]
    ) -> Mapping[TableName, Sequence[TableIndex]]:
        """Return all indexes of some tables of the last `catalog()`, by the names in it."""
        return {}

    def issues(self) -> Iterable[CatalogIssue]:
        """Return the objects that the database marks as unfinished.

        Covers the search path and the tables of the last `catalog()`.
        """
        return ()

    @abstractmethod
    def schema_editor(self) -> AbstractContextManager[BaseDatabaseSchemaEditor]:
        """Return a context manager with a schema editor that collects SQL and runs none."""

    def unblocked(self, statement: str, relation: Relation) -> tuple[str, ...]:
        """Return statements that do the same without blocking writers of the table.

        `statement` adds an index or a constraint to the relation.
        """
        return (statement,)

    @abstractmethod
    def close(self) -> None:
        """Release the connection."""


def collecting_editor(
    editor_class: type[BaseDatabaseSchemaEditor], connection: BaseDatabaseWrapper
) -> BaseDatabaseSchemaEditor:
    """Return a schema editor that collects SQL and runs none."""
    editor = editor_class(connection, collect_sql=True, atomic=False)
    # `__enter__` would set this too, but it begins a transaction, and checks all foreign
    # keys on SQLite.
    editor.deferred_sql = []
    return editor
