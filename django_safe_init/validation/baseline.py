"""Take the baseline of a run: the differences that the run does not cause.

The baseline is taken under the leader lock, before the first migration. It holds keys of findings.
A table or a column that a pending migration is going to create is no part of it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.apps import apps
from django.db.migrations.state import ModelState, ProjectState

from django_safe_init.backends.base.introspection import BaseIntrospection
from django_safe_init.core.build import migrated_apps
from django_safe_init.core.findings import finding_key
from django_safe_init.core.records import PreviousFindings
from django_safe_init.core.replacements import RecordedLoader
from django_safe_init.validation.classify import schema_differences
from django_safe_init.validation.diff import SchemaDifference
from django_safe_init.validation.model_schema import tables_of


def without_damage(found: frozenset[str], before: PreviousFindings) -> frozenset[str]:
    """Return the findings that the run `before`, and its predecessors, did not cause.

    A run that did not finish may have applied migrations, so only its baseline counts.
    """
    if before.finished:
        return found.difference(before.caused)
    return found.intersection(before.keys)


def earlier_differences(
    alias: str, introspection: BaseIntrospection, known: Collection[str] | None
) -> frozenset[str]:
    """Return the keys of the differences between the database and this build's models.

    `known` are the findings of the newest run that ended ready; None without such a run. The
    baseline of an empty database is empty: everything in it is the run's work. Raises the
    errors of Django's migration loader.
    """
    recorded = introspection.recorded_migrations()
    if not recorded:
        return frozenset()
    tables = tables_of(alias, apps.get_models(include_auto_created=True))
    found = list(schema_differences(alias, introspection, tables))
    if not found:
        return frozenset()
    cause = _Cause(recorded, known)
    return frozenset(
        _key(difference) for difference in found if cause.is_earlier(difference)
    )


def _key(difference: SchemaDifference) -> str:
    return finding_key(difference.kind, difference.object)


class _Cause:
    """Tells differences that were there before from work that is still to do."""

    def __init__(
        self, recorded: Collection[str], known: Collection[str] | None
    ) -> None:
        self._known = known
        self._migrated = migrated_apps()
        loader = RecordedLoader(recorded)
        self._before = _state(loader, applied_only=True)
        self._after = _state(loader, applied_only=False)

    def is_earlier(self, difference: SchemaDifference) -> bool:
        """Return True if no pending migration is responsible for the missing object."""
        if difference.table.app_label not in self._migrated:
            return True
        if _defines(self._before, difference):
            return True  # the database has lost it
        if self._known is not None:
            return _key(difference) in self._known
        # The first run: the application may have lived without it for years.
        return not _defines(self._after, difference)


def _state(loader: RecordedLoader, *, applied_only: bool) -> ProjectState:
    """Return the state of the models after the applied, or all, migrations."""
    graph = loader.graph
    plan = dict.fromkeys(
        node for leaf in graph.leaf_nodes() for node in graph.forwards_plan(leaf)
    )
    state = ProjectState(real_apps=loader.unmigrated_apps)
    for node in plan:
        if not applied_only or node in loader.applied_migrations:
            state = graph.nodes[node].mutate_state(state, preserve=False)
    return state


def _defines(state: ProjectState, difference: SchemaDifference) -> bool:
    """Return True if migrations up to the state have created the missing object."""
    model = difference.table.model
    # Any: the stubs declare `auto_created` as a bool. Here it is the model with the field.
    owner: Any = model._meta.auto_created or model
    found = state.models.get((owner._meta.app_label, str(owner._meta.model_name)))
    if found is None:
        return False
    if owner is not model:
        fields = owner._meta.local_many_to_many
        names = {each.name for each in fields if each.remote_field.through is model}
        return not names.isdisjoint(found.fields)
    if found.options.get("db_table") != model._meta.original_attrs.get("db_table"):
        return False
    return difference.field is None or _has_column(found, difference)


def _has_column(found: ModelState, difference: SchemaDifference) -> bool:
    field = difference.field
    assert field is not None
    before = found.fields.get(field.name)
    return before is not None and before.db_column == field.db_column
