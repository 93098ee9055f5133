"""How bad it is that something is missing, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from django.db import connections
from django.db.migrations.loader import MigrationLoader

from django_safe_init.backends.base.introspection import BaseIntrospection, TableName
from django_safe_init.core.build import Build, migrated_apps
from django_safe_init.core.findings import Finding, FindingKind, management_command_line
from django_safe_init.validation.diff import SchemaDifference, differences
from django_safe_init.validation.model_schema import Table, column_of, tables_of
from django_safe_init.validation.repair_sql import RepairSQLBuilder


def compare(
    alias: str,
    introspection: BaseIntrospection,
    tables: Sequence[Table],
    levels: Mapping[str, str],
    beyond: Mapping[str, AheadOfBuild],
) -> list[Finding]:
    """What the tables lack in the database; `beyond` are the apps in which it is ahead."""
    catalogue = introspection.catalog([table.name for table in tables])
    migrated = migrated_apps()
    found = [
        lack
        for lack in differences(tables, catalogue, migrated, connections[alias])
        if levels[lack.kind] != "off"
    ]
    if not found:
        return []
    with introspection.schema_editor() as editor:
        migrations, composer = MigrationState(alias), RepairSQLBuilder(editor, found)
        judge = _DifferenceClassifier(
            alias, levels, migrated, beyond, migrations, composer
        )
        return [judge.finding(lack) for lack in found]


@dataclass(frozen=True)
class _DifferenceClassifier:
    """Knows where each lack comes from."""

    alias: str
    levels: Mapping[str, str]
    migrated: frozenset[str]
    beyond: Mapping[str, AheadOfBuild]
    migrations: MigrationState
    composer: RepairSQLBuilder

    def finding(self, lack: SchemaDifference) -> Finding:
        """The lack as somebody reads it."""
        level, message = self.levels[lack.kind], lack.message
        beyond = self.beyond.get(lack.table.label)
        if beyond is not None:
            # A database that is ahead is ready for this build; what is kept for it is the
            # newer build's affair.
            level = "warn"
            message += f" {beyond.unknown}, unknown to this build, may have removed it."
        label = lack.table.model._meta.label
        return Finding(
            lack.kind, level, lack.object, label, message, self._repair(lack, beyond)
        )

    def _repair(
        self, lack: SchemaDifference, beyond: AheadOfBuild | None
    ) -> tuple[str, ...]:
        label = lack.table.label
        if beyond is not None:
            name = beyond.known.partition(".")[2]
            return (management_command_line(f"migrate {label} {name}", self.alias),)
        if label not in self.migrated and lack.kind is FindingKind.MISSING_TABLE:
            return (management_command_line("migrate --run-syncdb", self.alias),)
        if label in self.migrated and not self.migrations.make(lack):
            return (
                management_command_line(f"makemigrations {label}"),
                management_command_line("safe_migrate", self.alias),
            )
        return self.composer.repair(lack)


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
