"""Derive the SQL of the status tables from their models."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from django_safe_init.backends.base.introspection import collecting_editor
from django_safe_init.models import Run, Step

#: The models of the status tables, in the order of their creation.
MODELS: tuple[type[models.Model], ...] = (Run, Step)


class TableSchema:
    """The columns and indexes of the status tables, in the SQL of one engine.

    `connection` need not be open, because the schema editor only collects SQL. The editor is
    Django's own for the engine: a package's editor may write SQL that runs only in migrations.
    """

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        editor_class: type[BaseDatabaseSchemaEditor] | None = None,
    ) -> None:
        # Any: the type of an editor depends on the engine.
        self._editor: Any = collecting_editor(
            editor_class or connection.SchemaEditorClass, connection
        )

    def columns(self, model: type[models.Model]) -> dict[str, str]:
        """Return the definition of each column by its name, in the model's order."""
        return {
            str(field.column): self._definition(model, field)
            for field in model._meta.local_concrete_fields
        }

    def indexes(self, model: type[models.Model]) -> list[str]:
        """Return the statements that create the model's indexes."""
        return [
            str(index.create_sql(model, self._editor)) for index in model._meta.indexes
        ]

    def _definition(
        self, model: type[models.Model], field: models.Field[Any, Any]
    ) -> str:
        definition, params = self._editor.column_sql(model, field)
        values = tuple(self._editor.quote_value(value) for value in params)
        suffix = field.db_type_suffix(self._editor.connection)
        return " ".join(filter(None, [definition % values, suffix]))
