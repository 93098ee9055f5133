"""What the models need of a database: their tables, columns and unique constraints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from django.db import connections, models, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, UniqueConstraint

from django_safe_init.backends.base.introspection import TableName, Unique

Model = type[models.Model]


class Table(NamedTuple):
    """A table that a model needs."""

    name: TableName
    model: Model
    fields: tuple[Field[Any, Any], ...]
    uniques: tuple[Unique, ...]

    @property
    def label(self) -> str:
        """The app that the table belongs to."""
        return self.model._meta.app_label


def tables_of(alias: str, candidates: Iterable[Model]) -> list[Table]:
    """The tables that Django's migrations make in this database for the models among these."""
    connection = connections[alias]
    return [_table(model) for model in candidates if _is_migrated(connection, model)]


def _is_migrated(connection: BaseDatabaseWrapper, model: Model) -> bool:
    # The table between two models is made, or not, with the model that has the field.
    # The stubs take `auto_created` for a flag: it is the model that the table was made for.
    owner: Model = model._meta.auto_created or model  # type: ignore[assignment]
    return owner._meta.can_migrate(connection) and router.allow_migrate_model(
        connection.alias, owner
    )


def _table(model: Model) -> Table:
    # Not what Django caches of its fields: of most models nobody has asked for that yet.
    fields = tuple(each for each in model._meta.local_fields if each.column is not None)
    name = table_name(model._meta.db_table)
    return Table(name, model, fields, tuple(_uniques(model, fields)))


def table_name(db_table: str) -> TableName:
    """What `db_table` names: also `"schema"."table"`, with or without the outer quotes."""
    *schema, name = _unquoted(db_table).split('"."')
    return TableName(schema[-1] if schema else None, name)


def column_of(field: Field[Any, Any]) -> str:
    """The name of the field's column."""
    name = str(field.column)
    return _unquoted(name) if name.startswith('"') else name


def _unquoted(name: str) -> str:
    """The name without the quotes that Django leaves as they are."""
    quoted = len(name) > 2 and name[0] == name[-1] == '"'
    return name[1:-1] if quoted else name


def _uniques(model: Model, fields: Iterable[Field[Any, Any]]) -> Iterator[Unique]:
    options = model._meta
    yield _plain(options.pk_fields, primary_key=True)
    for each in fields:
        if each.unique and not each.primary_key:
            yield Unique((column_of(each),), (each,))
    known = {each.name: each for each in fields}
    for names in options.unique_together:
        yield _plain([known.get(name) or options.get_field(name) for name in names])
    for constraint in options.constraints:
        if isinstance(constraint, UniqueConstraint) and _is_djangos(constraint):
            yield _constrained(model, constraint)


def _is_djangos(constraint: UniqueConstraint) -> bool:
    """Whether it makes what Django's own class makes: a subclass may make anything."""
    return type(constraint).create_sql is UniqueConstraint.create_sql


def _plain(fields: Iterable[Any], *, primary_key: bool = False) -> Unique:
    given = tuple(fields)
    return Unique(tuple(map(column_of, given)), given, primary_key)


def _constrained(model: Model, constraint: UniqueConstraint) -> Unique:
    names = constraint.fields  # none beside expressions
    fields: Any = tuple(model._meta.get_field(name) for name in names)
    return Unique(tuple(map(column_of, fields)), fields, constraint=constraint)
