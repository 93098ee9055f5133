"""The SQL that puts right what is missing, as Django's schema editor writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import Statement
from django.db.backends.utils import truncate_name
from django.db.models import Field, UniqueConstraint

from django_safe_init.backends.base.introspection import Unique
from django_safe_init.core.findings import FindingKind
from django_safe_init.validation.diff import SchemaDifference
from django_safe_init.validation.model_schema import Model, column_of, table_name


class RepairSQLBuilder:
    """Writes statements, and runs none.

    Ask in the order in which they are to be run: a foreign key between two missing tables
    belongs to the one that is made later.
    """

    def __init__(
        self, editor: BaseDatabaseSchemaEditor, missing: Iterable[SchemaDifference]
    ) -> None:
        self._editor = editor
        self._missing = {
            lack.table.model._meta.db_table
            for lack in missing
            if lack.kind is FindingKind.MISSING_TABLE
        }

    def repair(self, lack: SchemaDifference) -> tuple[str, ...]:
        """The statements; none where the engine, or code of the project, does not let us."""
        try:
            return self._collected(lambda: self._write(lack))
        except Exception:  # noqa: BLE001  (a default, or a field, is code of the project)
            return ()

    def _write(self, lack: SchemaDifference) -> None:
        model = lack.table.model
        if lack.unique is not None:
            self._add_unique(model, lack.unique)
        elif lack.field is not None:
            self._editor.add_field(model, lack.field)
        else:
            self._create_table(model)

    def _collected(self, write: Callable[[], None]) -> tuple[str, ...]:
        """What the editor collects meanwhile, and what it has put off and can be done by now."""
        self._editor.collected_sql.clear()
        write()
        put_off, self._editor.deferred_sql = self._editor.deferred_sql, []
        for statement in filter(None, put_off):
            if self._waits(statement):
                self._editor.deferred_sql.append(statement)
            else:
                self._editor.execute(statement, None)
        return tuple(self._editor.collected_sql)

    def _waits(self, statement: Any) -> bool:
        return isinstance(statement, Statement) and any(
            statement.references_table(table) for table in self._missing
        )

    def _create_table(self, model: Model) -> None:
        """As `create_model`, without the tables of its many-to-many fields: each has a lack."""
        editor = self._editor
        statement, parameters = editor.table_sql(model)
        editor.execute(statement, parameters or None)
        indexes = editor._model_indexes_sql(model)  # type: ignore[attr-defined]  # no public one
        editor.deferred_sql.extend(indexes)
        self._missing.discard(model._meta.db_table)

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
    """What Django makes of `unique` and `unique_together`, under a name that tells it."""
    columns = map(column_of, fields)
    name = _name(editor, model, [*columns, "uniq"])
    return UniqueConstraint(fields=[each.name for each in fields], name=name)


def _name(editor: BaseDatabaseSchemaEditor, model: Model, parts: list[str]) -> str:
    name = "_".join([table_name(model._meta.db_table).name, *parts])
    return truncate_name(name, editor.connection.ops.max_name_length())
