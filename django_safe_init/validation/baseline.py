"""Take the baseline of a run: the differences that the run does not cause.

The baseline is taken under the leader lock, before the first migration. It holds keys of findings.
A table or a column that a pending migration is going to create is no part of it. One that a
pending migration renames has the key that it will have at the end of the run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from django.apps import apps
from django.db import connections

from django_safe_init.backends.base.introspection import BaseIntrospection, Catalog
from django_safe_init.core.build import migrated_apps
from django_safe_init.core.findings import finding_key
from django_safe_init.core.records import PreviousFindings
from django_safe_init.validation.diff import structure_differences
from django_safe_init.validation.lineage import Lineage, Trace
from django_safe_init.validation.model_schema import Table, column_of, tables_of
from django_safe_init.validation.schema_difference import SchemaDifference
from django_safe_init.validation.state_objects import Place, owners, place_of


def without_damage(
    found: Mapping[str, frozenset[str]], before: PreviousFindings | None
) -> frozenset[str]:
    """Return the findings that the run `before`, and its predecessors, did not cause.

    `found` comes from `earlier_differences`. A run that did not finish may have applied
    migrations, so only its baseline counts.
    """
    if before is None:
        return frozenset(found)
    if before.finished:
        return frozenset(
            key for key, keys in found.items() if keys.isdisjoint(before.caused)
        )
    return frozenset(
        key for key, keys in found.items() if not keys.isdisjoint(before.keys)
    )


def earlier_differences(
    alias: str, introspection: BaseIntrospection, known: Collection[str] | None
) -> dict[str, frozenset[str]]:
    """Return the keys of the tables and columns that the database lacks already.

    The keys name the objects as this build's models do. Each comes with the keys that the object
    has had before pending migrations rename it. `known` are the findings of the newest run that
    ended ready; None without such a run. Raises the errors of Django's migration loader.
    """
    recorded = introspection.recorded_migrations()
    tables = tables_of(alias, apps.get_models(include_auto_created=True))
    catalog = introspection.catalog([table.name for table in tables])
    found = list(
        structure_differences(tables, catalog, migrated_apps(), connections[alias])
    )
    if not found or not (recorded or any(each.field for each in found)):
        return {}  # everything in an empty database is the run's work
    lineage = Lineage.of(recorded)
    keys = {
        trace.places[-1].key: frozenset(place.key for place in trace.places)
        for trace in lineage.follow(_lost(lineage, introspection))
    }
    required = {place.key for table in tables for place in _places(table)}
    earlier = {key: former for key, former in keys.items() if key in required}
    for key in _unrelated(found, lineage, known):
        earlier.setdefault(key, frozenset({key}))
    return earlier


def _lost(lineage: Lineage, introspection: BaseIntrospection) -> list[Trace]:
    """Return the objects that the recorded migrations have created and the database lacks."""
    places = {owner: place_of(lineage.state, owner) for owner in owners(lineage.state)}
    catalog = introspection.catalog({place.table for place in places.values() if place})
    return [
        Trace(owner, (place,))
        for owner, place in places.items()
        if place and _is_missing(place, catalog)
    ]


def _is_missing(place: Place, catalog: Catalog) -> bool:
    relation = catalog.find(place.table)
    if place.column is None:
        return relation is None and catalog.can_tell(place.table)
    return relation is not None and not catalog.has_column(relation, place.column)


def _places(table: Table) -> Iterator[Place]:
    yield Place(table.name)
    yield from (Place(table.name, column_of(field)) for field in table.fields)


def _unrelated(
    found: list[SchemaDifference], lineage: Lineage, known: Collection[str] | None
) -> Iterator[str]:
    """Yield the keys of the differences for which no pending migration is responsible."""
    migrated = migrated_apps()
    after = {place_of(lineage.state, owner) for owner in owners(lineage.state)}
    defined = {place.key for place in after if place}
    adopted = {place.key for place in lineage.created if place.column}
    for difference in found:
        key = finding_key(difference.kind, difference.object)
        # Without a run before, the application may have lived without it for years.
        is_known = key not in defined and (known is None or key in known)
        # The table exists, so no migration is going to create the model's columns.
        is_adopted = key in adopted
        if is_known or is_adopted or difference.table.app_label not in migrated:
            yield key
