"""How bad it is that something is missing, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import connections

from django_safe_init.core.build import migrated_apps
from django_safe_init.core.findings import Finding, Kind, manage
from django_safe_init.validation.diff import Lack, lacks
from django_safe_init.validation.model_schema import Table
from django_safe_init.validation.provenance import Beyond, Migrations
from django_safe_init.validation.repair_sql import Composer

if TYPE_CHECKING:
    from django_safe_init.backends.base.backend import Inspector


def compare(
    alias: str,
    inspector: Inspector,
    tables: Sequence[Table],
    levels: Mapping[str, str],
    beyond: Mapping[str, Beyond],
) -> list[Finding]:
    """What the tables lack in the database; `beyond` are the apps in which it is ahead."""
    catalogue = inspector.catalogue([table.name for table in tables])
    migrated = migrated_apps()
    found = [
        lack
        for lack in lacks(tables, catalogue, migrated, connections[alias])
        if levels[lack.kind] != "off"
    ]
    if not found:
        return []
    with inspector.editor() as editor:
        migrations, composer = Migrations(alias), Composer(editor, found)
        judge = _Judge(alias, levels, migrated, beyond, migrations, composer)
        return [judge.finding(lack) for lack in found]


@dataclass(frozen=True)
class _Judge:
    """Knows where each lack comes from."""

    alias: str
    levels: Mapping[str, str]
    migrated: frozenset[str]
    beyond: Mapping[str, Beyond]
    migrations: Migrations
    composer: Composer

    def finding(self, lack: Lack) -> Finding:
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

    def _repair(self, lack: Lack, beyond: Beyond | None) -> tuple[str, ...]:
        label = lack.table.label
        if beyond is not None:
            name = beyond.known.partition(".")[2]
            return (manage(f"migrate {label} {name}", self.alias),)
        if label not in self.migrated and lack.kind is Kind.MISSING_TABLE:
            return (manage("migrate --run-syncdb", self.alias),)
        if label in self.migrated and not self.migrations.make(lack):
            return (
                manage(f"makemigrations {label}"),
                manage("safe_migrate", self.alias),
            )
        return self.composer.repair(lack)
