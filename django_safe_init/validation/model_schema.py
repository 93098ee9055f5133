"""Derive the tables, columns and uniqueness that the models require."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from django.db import connections, models, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, UniqueConstraint

from django_safe_init.backends.base.introspection import TableName, Unique

Model = type[models.Model]


class Table(NamedTuple):
    """A table that a model requires."""

    name: TableName
    model: Model
    fields: tuple[Field[Any, Any], ...]
    uniques: tuple[Unique, ...]

    @property
    def app_label(self) -> str:
        """Return the label of the app that the table belongs to."""
        return self.model._meta.app_label


def tables_of(alias: str, candidates: Iterable[Model]) -> list[Table]:
    """Return the tables of the candidates that Django's migrations create in this database."""
    connection = connections[alias]
    return [_table(model) for model in candidates if _is_migrated(connection, model)]


def _is_migrated(connection: BaseDatabaseWrapper, model: Model) -> bool:
    # The table of a many-to-many field follows the model that has the field.
    # The stubs declare `auto_created` as a bool. For such a table it is that model.
    owner: Model = model._meta.auto_created or model  # type: ignore[assignment]
    return owner._meta.can_migrate(connection) and router.allow_migrate_model(
        connection.alias, owner
    )


def _table(model: Model) -> Table:
    # Not `concrete_fields`: computing that cache for every model would take longer.
    fields = tuple(each for each in model._meta.local_fields if each.column is not None)
    name = table_name(model._meta.db_table)
    return Table(name, model, fields, tuple(_uniques(model, fields)))


@cache
def table_name(db_table: str) -> TableName:
    """Parse `db_table`, which may be `"schema"."table"`, with or without the outer quotes."""
    *schema, name = _unquoted(db_table).split('"."')
    return TableName(schema[-1] if schema else None, name)


def column_of(field: Field[Any, Any]) -> str:
    """Return the name of the field's column."""
    name = str(field.column)
    return _unquoted(name) if name.startswith('"') else name


def _unquoted(name: str) -> str:
    """Return the name without outer quotes. Django does not quote a quoted name again."""
    quoted = len(name) > 2 and name[0] == name[-1] == '"'
    return name[1:-1] if quoted else name


def _uniques(model: Model, fields: Iterable[Field[Any, Any]]) -> Iterator[Unique]:
    options = model._meta
    yield _unnamed(options.pk_fields, primary_key=True)
    for each in fields:
        if each.unique and not each.primary_key:
            yield Unique((column_of(each),), (each,))
    by_name = {each.name: each for each in fields}
    for names in options.unique_together:
        yield _unnamed([by_name.get(name) or options.get_field(name) for name in names])
    for constraint in options.constraints:
        if isinstance(constraint, UniqueConstraint) and _has_standard_sql(constraint):
            yield _named(model, constraint)


def _has_standard_sql(constraint: UniqueConstraint) -> bool:
    """Return True unless a subclass creates the constraint with its own SQL."""
    return type(constraint).create_sql is UniqueConstraint.create_sql


def _unnamed(fields: Sequence[Any], *, primary_key: bool = False) -> Unique:
    return Unique(tuple(map(column_of, fields)), tuple(fields), primary_key)


def _named(model: Model, constraint: UniqueConstraint) -> Unique:
    names = constraint.fields  # empty for a constraint on expressions
    fields: Any = tuple(model._meta.get_field(name) for name in names)
    return Unique(tuple(map(column_of, fields)), fields, constraint=constraint)
