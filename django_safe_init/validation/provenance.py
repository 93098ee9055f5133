"""Where a lack comes from: from this build's migrations, from none, from another build's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from django.db.migrations.loader import MigrationLoader

from django_safe_init.core.build import Build
from django_safe_init.validation.diff import SchemaDifference
from django_safe_init.validation.model_schema import (
    Table,
    TableName,
    column_of,
    tables_of,
)


class AheadOfBuild(NamedTuple):
    """An app that the database has taken further than this build knows."""

    #: The newest recorded migration of the app that this build knows.
    known: str
    #: The first one after it.
    unknown: str


def apps_ahead(recorded: Sequence[str], build: Build) -> dict[str, AheadOfBuild]:
    """The apps that another build has migrated after this one; `recorded` is in that order.

    An unknown migration *before* a known one says nothing: it may have been squashed away.
    """
    known: dict[str, str] = {}
    beyond: dict[str, AheadOfBuild] = {}
    for name in recorded:
        label = name.partition(".")[0]
        if name in build.migrations:
            known[label] = name
            beyond.pop(label, None)
        elif label in known:
            beyond.setdefault(label, AheadOfBuild(known[label], name))
    return beyond


class MigrationState:
    """What the tables are by this build's migrations, which may not be what its models say."""

    def __init__(self, alias: str) -> None:
        state = MigrationLoader(None).project_state()
        models = state.apps.get_models(include_auto_created=True)
        self._tables: dict[TableName, Table] = {
            table.name: table for table in tables_of(alias, models)
        }

    def make(self, lack: SchemaDifference) -> bool:
        """Whether the migrations make what is missing."""
        table = self._tables.get(lack.table.name)
        if table is None:
            return False
        if lack.field is not None:
            column = column_of(lack.field)
            return column in {column_of(field) for field in table.fields}
        if lack.unique is not None:
            return lack.unique.key in {unique.key for unique in table.uniques}
        return True
