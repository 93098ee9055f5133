"""Django's schema editor as a writer of SQL."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def collecting_editor(
    kind: type[BaseDatabaseSchemaEditor], connection: BaseDatabaseWrapper
) -> BaseDatabaseSchemaEditor:
    """An editor that runs nothing.

    It is not entered: that would begin a transaction, and check all foreign keys on SQLite.
    """
    editor = kind(connection, collect_sql=True, atomic=False)
    editor.deferred_sql = []
    return editor
