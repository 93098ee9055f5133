"""What a database has, as its catalogue says it: the same words for every engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.models import Field, UniqueConstraint

from django_safe_init.core.findings import FindingKind


class UniqueIndex(NamedTuple):
    """An index, or a primary key, that keeps something unique."""

    name: str
    #: The columns that must differ.
    columns: frozenset[str]
    #: Whether it is about these columns in all rows: no condition, no expression.
    plain: bool = True
    #: Whether a NULL equals another NULL.
    nulls_equal: bool = False

    def covers(self, columns: frozenset[str], nulls_equal: bool) -> bool:
        """Whether rows that have all of these columns in common cannot be there twice."""
        return (
            self.plain
            and bool(self.columns)
            and self.columns <= columns
            and (self.nulls_equal or not nulls_equal)
        )


class Relation(NamedTuple):
    """A table, or what stands in for one: a view, a foreign table."""

    columns: frozenset[str]
    uniques: tuple[UniqueIndex, ...] = ()
    #: Whether it can have unique indexes at all; a view cannot.
    indexable: bool = True
    #: What the partitions of a table differ in; empty for one that is not partitioned.
    partitioned_by: frozenset[str] = frozenset()

    def can_keep_unique(self, columns: frozenset[str]) -> bool:
        """Whether the engine lets these columns be unique over the whole table."""
        return self.indexable and self.partitioned_by <= columns


@dataclass(frozen=True)
class Catalog:
    """The tables of a database that somebody asked for, as far as they are there."""

    relations: Mapping[TableName, Relation]
    #: What the engine makes of a name that Django gives to something.
    stored: Callable[[str], str] = str
    #: What Django creates unique constraints with here: see `Unique.abilities`.
    abilities: frozenset[str] = frozenset()
    #: Whether tables in other schemas were looked for, too.
    schemas: bool = True

    def knows(self, name: TableName) -> bool:
        """Whether it can tell if the table is there."""
        return self.schemas or name.schema is None

    def find(self, name: TableName) -> Relation | None:
        """What the name stands for, if it is there."""
        schema = name.schema and self.stored(name.schema)
        return self.relations.get(TableName(schema, self.stored(name.name)))

    def has_column(self, relation: Relation, column: str) -> bool:
        """Whether the table has the column."""
        return self.stored(column) in relation.columns

    def keeps(self, relation: Relation, unique: Unique) -> bool:
        """Whether something in the table does what `unique` says, or nothing there can."""
        columns = frozenset(map(self.stored, unique.columns))
        nulls_equal = unique.nulls_equal
        for index in relation.uniques:
            if index.covers(columns, nulls_equal):
                return True
        if not relation.can_keep_unique(columns):
            return True
        if not unique.abilities <= self.abilities:
            return True  # Django does not create it here
        name = unique.name and self.stored(unique.name)
        return any(index.name == name for index in relation.uniques)


def collecting_editor(
    kind: type[BaseDatabaseSchemaEditor], connection: BaseDatabaseWrapper
) -> BaseDatabaseSchemaEditor:
    """An editor that runs nothing.

    It is not entered: that would begin a transaction, and check all foreign keys on SQLite.
    """
    editor = kind(connection, collect_sql=True, atomic=False)
    editor.deferred_sql = []
    return editor


class CatalogIssue(NamedTuple):
    """Something that the server itself calls unfinished."""

    kind: FindingKind
    object: str
    message: str
    #: None if no statement alone puts it right.
    repair: str | None


class TableName(NamedTuple):
    """A table as a model names it; without a schema it is the one that the search path finds."""

    schema: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


class Unique(NamedTuple):
    """Something that a model says is unique."""

    #: Empty where only the name can tell: it is about expressions.
    columns: tuple[str, ...]
    fields: tuple[Field[Any, Any], ...]
    primary_key: bool = False
    #: What the model gives a name to.
    constraint: UniqueConstraint | None = None

    @property
    def name(self) -> str | None:
        """The name of the constraint, if the model gives it one."""
        return self.constraint.name if self.constraint else None

    @property
    def nulls_equal(self) -> bool:
        """Whether a NULL equals another NULL."""
        return self.constraint is not None and self.constraint.nulls_distinct is False

    @property
    def abilities(self) -> frozenset[str]:
        """What a database must be able to do, or Django does not create it there."""
        constraint: Any = self.constraint
        wanted = {
            "deferrable": constraint and constraint.deferrable is not None,
            "include": constraint and bool(constraint.include),
            "nulls_distinct": constraint and constraint.nulls_distinct is not None,
        }
        return frozenset(name for name, needed in wanted.items() if needed)

    @property
    def key(self) -> tuple[object, ...]:
        """What it has in common with the same of another state of the model."""
        return (self.columns, self.name, self.primary_key)
