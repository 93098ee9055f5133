"""Write the SQL that repairs a schema difference, with Django's schema editor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from typing import Any

from django.db import NotSupportedError
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import Statement
from django.db.backends.utils import truncate_name
from django.db.models import Field, UniqueConstraint

from django_safe_init.backends.base.introspection import BaseIntrospection, Unique
from django_safe_init.core.findings import FindingKind
from django_safe_init.validation.model_keys import RequiredIndex
from django_safe_init.validation.model_schema import Model, column_of, table_name
from django_safe_init.validation.schema_difference import SchemaDifference

#: The kinds whose repair leaves the data as it is, and can be undone.
_AUTOMATIC = (
    FindingKind.MISSING_UNIQUE,
    FindingKind.MISSING_INDEX,
    FindingKind.MISSING_FOREIGN_KEY,
)


class RepairSQLBuilder:
    """Writes the statements for differences, and runs none.

    Build them in the order in which they will be run: a foreign key between two missing tables
    belongs to the table that is created later.
    """

    def __init__(
        self,
        editor: BaseDatabaseSchemaEditor,
        introspection: BaseIntrospection,
        found: Iterable[SchemaDifference],
    ) -> None:
        # Any: Django's methods for indexes are not public.
        self._editor: Any = editor
        self._introspection = introspection
        self._missing_tables = {
            difference.table.model._meta.db_table
            for difference in found
            if difference.kind is FindingKind.MISSING_TABLE
        }

    def build(self, difference: SchemaDifference) -> tuple[str, ...]:
        """Return the statements, or none if the engine or code of the project prevents them."""
        try:
            statements = self._collect(lambda: self._write(difference))
        except Exception:  # noqa: BLE001  (a default, or a field, is code of the project)
            return ()
        if difference.relation is None or difference.field is not None:
            return statements
        return tuple(
            each
            for statement in statements
            for each in self._introspection.unblocked(statement, difference.relation)
        )

    def is_automatic(self, difference: SchemaDifference) -> bool:
        """Return True if the statements may run before a person has examined the data.

        A missing table or column has lost its data. A table that must be made anew, as for a
        foreign key on SQLite, may lose what Django does not know.
        """
        if difference.lacks_data:
            return False
        if difference.foreign_key is not None:
            return bool(self._editor.sql_create_fk)
        return difference.kind in _AUTOMATIC

    def _write(self, difference: SchemaDifference) -> None:
        model = difference.table.model
        if difference.unique is not None:
            self._add_unique(model, difference.unique)
        elif difference.field is not None:
            self._editor.add_field(model, difference.field)
        elif difference.index is not None:
            self._editor.execute(self._index_sql(model, difference.index), None)
        elif difference.foreign_key is not None:
            self._add_foreign_key(difference, difference.foreign_key.field)
        else:
            self._create_table(model)

    def _index_sql(self, model: Model, index: RequiredIndex) -> Statement:
        if index.declared is not None:
            statement: Statement = index.declared.create_sql(model, self._editor)
        elif index.for_patterns:
            statement = self._editor._create_like_index_sql(model, index.field)
        else:
            statement = self._editor._create_index_sql(model, fields=[index.field])
        return statement

    def _add_foreign_key(
        self, difference: SchemaDifference, field: Field[Any, Any]
    ) -> None:
        """Write the foreign key. Where a table must be made anew, it must lose no column."""
        editor, table = self._editor, difference.table
        if not editor.sql_create_fk:
            assert difference.relation is not None
            known = {column_of(each).lower() for each in table.fields}
            if difference.relation.columns - editor.implied_columns != known:
                raise NotSupportedError(f"{table.name} has other columns.")
        without: Any = copy(field)
        without.db_constraint = False
        editor.alter_field(table.model, without, field)

    def _collect(self, write: Callable[[], None]) -> tuple[str, ...]:
        """Return the SQL that `write` collects, and deferred SQL whose tables exist now."""
        self._editor.collected_sql.clear()
        write()
        deferred, self._editor.deferred_sql = self._editor.deferred_sql, []
        for statement in filter(None, deferred):
            if self._is_deferred(statement):
                self._editor.deferred_sql.append(statement)
            else:
                self._editor.execute(statement, None)
        return tuple(self._editor.collected_sql)

    def _is_deferred(self, statement: Any) -> bool:
        return isinstance(statement, Statement) and any(
            statement.references_table(table) for table in self._missing_tables
        )

    def _create_table(self, model: Model) -> None:
        """Write the table as `create_model` does, without the tables of many-to-many fields.

        A missing table of a many-to-many field is another difference.
        """
        editor = self._editor
        statement, parameters = editor.table_sql(model)
        editor.execute(statement, parameters or None)
        indexes = editor._model_indexes_sql(model)
        editor.deferred_sql.extend(indexes)
        self._missing_tables.discard(model._meta.db_table)

    def _add_unique(self, model: Model, unique: Unique) -> None:
        editor = self._editor
        if unique.primary_key:
            columns = (editor.quote_name(str(each.column)) for each in unique.fields)
            statement: Any = editor.sql_create_pk % {
                "table": editor.quote_name(model._meta.db_table),
                "name": editor.quote_name(_name(editor, model, ["pkey"])),
                "columns": ", ".join(columns),
            }
        else:
            constraint = unique.constraint or _constraint(editor, model, unique.fields)
            statement = constraint.create_sql(model, editor)
        editor.execute(statement, None)


def _constraint(
    editor: BaseDatabaseSchemaEditor, model: Model, fields: Iterable[Field[Any, Any]]
) -> UniqueConstraint:
    """Return the constraint of `unique` or `unique_together`, with a descriptive name."""
    columns = map(column_of, fields)
    name = _name(editor, model, [*columns, "uniq"])
    return UniqueConstraint(fields=[each.name for each in fields], name=name)


def _name(editor: BaseDatabaseSchemaEditor, model: Model, parts: list[str]) -> str:
    name = "_".join([table_name(model._meta.db_table).name, *parts])
    return truncate_name(name, editor.connection.ops.max_name_length())
