"""Derive the foreign keys and indexes that the models require."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, Field, Index
from django.db.models.expressions import OrderBy
from django.db.models.indexes import IndexExpression

from django_safe_init.backends.base.introspection import TableName
from django_safe_init.validation.model_schema import (
    Model,
    Table,
    column_of,
    table_name,
)

#: Where Django creates the SQL of an index. Other classes may create something else.
_STANDARD_MODULES = ("django.db.models.indexes", "django.contrib.postgres.indexes")
#: Fields that surely get no index for LIKE. For others, Django asks for the type of the column.
_NOT_TEXT = frozenset(
    {
        models.AutoField,
        models.BigAutoField,
        models.BigIntegerField,
        models.BooleanField,
        models.DateField,
        models.DateTimeField,
        models.IntegerField,
        models.PositiveIntegerField,
        models.UUIDField,
    }
)


class RequiredForeignKey(NamedTuple):
    """A foreign key that a model requires."""

    field: Field[Any, Any]
    column: str
    target: TableName
    target_column: str

    @property
    def key(self) -> tuple[object, ...]:
        """Return a key that is equal for the same foreign key in two states of a model."""
        return (self.column, self.target, self.target_column)


class RequiredIndex(NamedTuple):
    """An index that a model requires: of a field, or one in `Meta.indexes`."""

    #: None for an expression.
    columns: tuple[str | None, ...]
    #: The field of an index that `Meta` does not name.
    field: Field[Any, Any] | None = None
    #: True for the extra index of a text field, which serves LIKE.
    for_patterns: bool = False
    declared: Index | None = None
    descending: tuple[bool, ...] = (False,)
    #: Empty for the default one.
    operator_classes: tuple[str, ...] = ("",)
    method: str = "btree"
    included: tuple[str, ...] = ()

    @property
    def name(self) -> str | None:
        """Return the name that the model gives to the index, if it gives one."""
        return self.declared.name if self.declared else None

    @property
    def description(self) -> str:
        """Return the column of an index that the model does not name, and its purpose."""
        return f"{self.columns[0]}{', for LIKE' if self.for_patterns else ''}"

    @property
    def is_usual(self) -> bool:
        """Return True if a usual index is sufficient, in the terms of `TableKeys`.

        An index of all rows also serves the queries of an index with a condition.
        """
        return not (
            self.for_patterns
            or self.method != "btree"
            or self.included
            or None in self.columns
            or any(self.descending)
            or any(self.operator_classes)
        )

    @property
    def is_partial(self) -> bool:
        """Return True if the index has a condition."""
        return self.declared is not None and self.declared.condition is not None

    @property
    def key(self) -> tuple[object, ...]:
        """Return a key that is equal for the same index in two states of a model."""
        return (self.columns, self.name, self.for_patterns)

    def name_for(self, model: Model, connection: BaseDatabaseWrapper) -> str:
        """Return the name that Django gives to the index."""
        if self.declared is not None:
            return self.declared.name
        assert self.field is not None
        # Collects SQL, so it opens no connection.
        editor: Any = connection.schema_editor(collect_sql=True)
        suffix = "_like" if self.for_patterns else ""
        name: str = editor._create_index_name(
            model._meta.db_table, [self.field.column], suffix
        )
        return name


def foreign_keys_of(table: Table) -> Iterator[RequiredForeignKey]:
    """Yield the foreign keys that the table's model requires."""
    for field in table.fields:
        remote: Any = field.remote_field
        if remote and getattr(field, "db_constraint", False):
            target = field.target_field  # type: ignore[attr-defined]  # a ForeignKey
            yield RequiredForeignKey(
                field,
                column_of(field),
                table_name(target.model._meta.db_table),
                column_of(target),
            )


def indexes_of(
    table: Table, connection: BaseDatabaseWrapper, features: Collection[str]
) -> Iterator[RequiredIndex]:
    """Yield the indexes that the table's model requires on an engine with these features."""
    for field in table.fields:
        unique = field.unique
        if (unique or getattr(field, "db_index", False)) and not _is_spatial(field):
            column = column_of(field)
            if not unique:
                yield RequiredIndex((column,), field)
            if "pattern_indexes" in features and _has_pattern_index(field, connection):
                yield RequiredIndex((column,), field, for_patterns=True)
    options = table.model._meta
    # Django's migrations do not see an index that code adds to a model without any, as mptt does.
    for index in options.indexes if "indexes" in options.original_attrs else ():
        required = _declared(table.model, index, features)
        if required is not None:
            yield required


def _is_spatial(field: Field[Any, Any]) -> bool:
    """Return True for a field of `django.contrib.gis`, whose index is of another kind."""
    # Not `hasattr`: the error within it would cost most of the time of a validation.
    return "spatial_index" in vars(field)


def _has_pattern_index(field: Field[Any, Any], connection: BaseDatabaseWrapper) -> bool:
    """Return True if Django creates an index for LIKE; False if only the database can tell."""
    target: Any = field
    while target.remote_field:
        target = target.target_field
    if type(target) in _NOT_TEXT:
        return False
    # LIKE does not work with some collations.
    if getattr(field, "db_collation", None) or getattr(target, "db_collation", None):
        return False
    kind = field.db_type(connection) or ""
    return kind.startswith(("varchar", "text")) and "[" not in kind


def _declared(
    model: Model, index: Index, features: Collection[str]
) -> RequiredIndex | None:
    """Return an index of `Meta`, or None if it is not known which index Django creates."""
    module = type(index).create_sql.__module__
    method = "btree" if module == _STANDARD_MODULES[0] else index.suffix
    has_methods = "index_methods" in features
    if module not in _STANDARD_MODULES or not (has_methods or method == "btree"):
        return None
    get_field: Any = model._meta.get_field
    included = map(get_field, index.include)
    required = RequiredIndex((), declared=index, method=method)
    if "include" in features:
        required = required._replace(included=tuple(map(column_of, included)))
    if index.expressions:
        keys = [_expression_key(model, each) for each in index.expressions]
        columns, descending, operator_classes = zip(*keys, strict=True)
    else:
        fields = [get_field(name) for name, _ in index.fields_orders]
        if any(_is_spatial(field) or field.column is None for field in fields):
            return None
        columns = tuple(map(column_of, fields))
        descending = tuple(bool(order) for _, order in index.fields_orders)
        operator_classes = tuple(index.opclasses) or ("",) * len(fields)
    if not has_methods:
        operator_classes = ("",) * len(columns)
    return required._replace(
        columns=columns, descending=descending, operator_classes=operator_classes
    )


def _expression_key(model: Model, expression: Any) -> tuple[str | None, bool, str]:
    """Return the column of an expression, if it is one, its order and its operator class."""
    descending, operator_class = False, ""
    while isinstance(expression, IndexExpression.wrapper_classes):
        if isinstance(expression, OrderBy):
            descending = expression.descending
        # The name of an OpClass.
        operator_class = getattr(expression, "extra", {}).get("name", operator_class)
        expression = expression.get_source_expressions()[0]
    column = None
    if isinstance(expression, F):
        # A transform, such as a key of a JSON object, is no field.
        with suppress(FieldDoesNotExist):
            name: str = expression.name  # type: ignore[attr-defined]  # not in the stubs
            column = column_of(model._meta.get_field(name))  # type: ignore[arg-type]  # concrete
    return column, descending, operator_class
