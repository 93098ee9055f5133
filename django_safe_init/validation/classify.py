"""Decide the severity of a schema difference and its repair, from the migrations that exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from django.db import connections
from django.db.migrations.loader import MigrationLoader

from django_safe_init.backends.base.introspection import BaseIntrospection, TableName
from django_safe_init.core.build import Build, migrated_apps
from django_safe_init.core.findings import Finding, FindingKind, management_command_line
from django_safe_init.validation.diff import differences
from django_safe_init.validation.model_keys import foreign_keys_of, indexes_of
from django_safe_init.validation.model_schema import Table, column_of, tables_of
from django_safe_init.validation.repair_sql import RepairSQLBuilder
from django_safe_init.validation.schema_difference import SchemaDifference

#: The features of an engine that has each index.
_ANY_INDEX = frozenset({"index_methods", "pattern_indexes"})


class AheadOfBuild(NamedTuple):
    """The migrations of an app that the database has beyond this build."""

    #: The newest recorded migration of the app that this build knows.
    known: str
    #: The first recorded migration after it.
    unknown: str


def apps_ahead(recorded: Sequence[str], build: Build) -> dict[str, AheadOfBuild]:
    """Return the apps whose migrations a newer build has continued, by their labels.

    `recorded` is in the order of recording. An unknown migration *before* a known one does not
    count, because it may have been squashed.
    """
    defined = build.known
    known: dict[str, str] = {}
    ahead: dict[str, AheadOfBuild] = {}
    for name in recorded:
        label = name.partition(".")[0]
        if name in defined:
            known[label] = name
            ahead.pop(label, None)
        elif label in known:
            ahead.setdefault(label, AheadOfBuild(known[label], name))
    return ahead


def compare(
    alias: str,
    introspection: BaseIntrospection,
    tables: Sequence[Table],
    levels: Mapping[str, str],
    ahead: Mapping[str, AheadOfBuild],
) -> list[Finding]:
    """Return a finding for each difference between the tables and the database.

    `levels` is the setting `VALIDATE`; `ahead` is the result of `apps_ahead()`.
    """
    migrated = migrated_apps()

    def is_wanted(kind: FindingKind) -> bool:
        return levels[kind] != "off"

    found = [
        difference
        for difference in differences(
            tables, introspection, migrated, connections[alias], is_wanted
        )
        if is_wanted(difference.kind)
    ]
    if not found:
        return []
    with introspection.schema_editor() as editor:
        classifier = _DifferenceClassifier(
            alias,
            levels,
            migrated,
            ahead,
            MigrationState(alias),
            RepairSQLBuilder(editor, introspection, found),
        )
        return [classifier.finding(difference) for difference in found]


@dataclass(frozen=True)
class _DifferenceClassifier:
    """Makes a finding of each difference, by its cause."""

    alias: str
    levels: Mapping[str, str]
    migrated: frozenset[str]
    ahead: Mapping[str, AheadOfBuild]
    migration_state: MigrationState
    repairs: RepairSQLBuilder

    def finding(self, difference: SchemaDifference) -> Finding:
        """Return the finding for the difference."""
        level, message = self.levels[difference.kind], difference.message
        ahead = self.ahead.get(difference.table.app_label)
        if ahead is not None:
            # This build stays ready on a newer schema, so the difference is no error here.
            level = "warn"
            message += f" {ahead.unknown}, unknown to this build, may have removed it."
        command = self._command(difference, ahead)
        statements = () if command else self.repairs.build(difference)
        return Finding(
            difference.kind,
            level,
            difference.object,
            difference.table.model._meta.label,
            message,
            command or statements,
            automatic=bool(statements) and self.repairs.is_automatic(difference),
        )

    def _command(
        self, difference: SchemaDifference, ahead: AheadOfBuild | None
    ) -> tuple[str, ...]:
        """Return the commands that repair the difference; none if SQL does."""
        label = difference.table.app_label
        if ahead is not None:
            name = ahead.known.partition(".")[2]
            return (management_command_line(f"migrate {label} {name}", self.alias),)
        if label not in self.migrated and difference.kind is FindingKind.MISSING_TABLE:
            return (management_command_line("migrate --run-syncdb", self.alias),)
        if label in self.migrated and not self.migration_state.creates(difference):
            return (
                management_command_line(f"makemigrations {label}"),
                management_command_line("safe_migrate", self.alias),
            )
        return ()


class MigrationState:
    """The tables that this build's migrations create, which may differ from its models."""

    def __init__(self, alias: str) -> None:
        self._connection = connections[alias]
        state = MigrationLoader(None).project_state()
        models = state.apps.get_models(include_auto_created=True)
        self._tables: dict[TableName, Table] = {
            table.name: table for table in tables_of(alias, models)
        }

    def creates(self, difference: SchemaDifference) -> bool:
        """Return True if the migrations create the missing object."""
        table = self._tables.get(difference.table.name)
        if table is None:
            return False
        if difference.field is not None:
            column = column_of(difference.field)
            return column in {column_of(field) for field in table.fields}
        if difference.unique is not None:
            return difference.unique.key in {unique.key for unique in table.uniques}
        if difference.foreign_key is not None:
            return difference.foreign_key.key in {
                foreign_key.key for foreign_key in foreign_keys_of(table)
            }
        if difference.index is not None:
            return difference.index.key in {
                index.key for index in indexes_of(table, self._connection, _ANY_INDEX)
            }
        return True
