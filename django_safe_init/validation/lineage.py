"""Follow tables and columns through the operations of migrations that rename them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from django.db.migrations import Migration
from django.db.migrations.operations import (
    CreateModel,
    DeleteModel,
    RenameField,
    RenameModel,
    RunSQL,
    SeparateDatabaseAndState,
)
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

from django_safe_init.core.replacements import RecordedLoader
from django_safe_init.validation.state_objects import (
    Owner,
    Place,
    owners_of,
    place_of,
)


class Trace(NamedTuple):
    """A table or a column, with the places that it has had: the newest is the last one."""

    owner: Owner
    places: tuple[Place, ...]

    def moved_to(self, owner: Owner, old: Place | None, new: Place | None) -> Trace:
        """Return the trace after an operation that has changed the place from old to new."""
        is_moved = old and new and new not in (old, self.places[-1])
        return Trace(owner, (*self.places, new) if is_moved and new else self.places)


class Lineage:
    """The state of the models before the pending migrations, and the way to the state after."""

    def __init__(self, state: ProjectState, pending: Sequence[Migration]) -> None:
        #: The models before the pending migrations; after `follow`, those after them.
        self.state = state
        self._pending = pending
        #: The tables and columns of pending models, unless an older table is dropped before.
        self.created: set[Place] = set()
        self._dropped: set[Place | None] = set()

    @classmethod
    def of(cls, recorded: Collection[str]) -> Lineage:
        """Return the lineage for these records.

        Raises the errors of Django's migration loader.
        """
        loader = RecordedLoader(recorded)
        graph, applied = loader.graph, loader.applied_migrations
        plan = dict.fromkeys(
            node for leaf in graph.leaf_nodes() for node in graph.forwards_plan(leaf)
        )
        state = ProjectState(real_apps=loader.unmigrated_apps)
        for node in plan:
            if node in applied:
                graph.nodes[node].mutate_state(state, preserve=False)
        return cls(state, [graph.nodes[node] for node in plan if node not in applied])

    def follow(self, traces: Iterable[Trace]) -> list[Trace]:
        """Return the traces after the pending migrations, and change `state`.

        The trace of an object that an operation deletes from the database ends.
        """
        found = list(traces)
        for migration in self._pending:
            for operation in migration.operations:
                found = self._apply(found, operation, migration)
        return found

    def _apply(
        self,
        traces: list[Trace],
        operation: Operation,
        migration: Migration,
        *,
        state_only: bool = False,
    ) -> list[Trace]:
        """Apply the operation to the state, and return the traces after it.

        An operation that changes only the state ends no trace: the table or column is still there.
        """
        if isinstance(operation, (SeparateDatabaseAndState, RunSQL)):
            traces = self._apply_to_database(traces, operation, migration)
            for each in operation.state_operations:
                traces = self._apply(traces, each, migration, state_only=True)
            return traces
        if isinstance(operation, DeleteModel) and not state_only:
            deleted = Owner(migration.app_label, operation.name_lower)
            self._dropped.add(place_of(self.state, deleted))
        present = [place_of(self.state, each.owner) for each in traces]
        traces = _advance(traces, operation, migration, self.state)
        if not state_only:
            traces = [
                trace
                for trace, place in zip(traces, present, strict=True)
                if not place or place_of(self.state, trace.owner)
            ]
        if isinstance(operation, CreateModel):
            traces += self._adopted(traces, operation, migration)
        return traces

    def _apply_to_database(
        self, traces: list[Trace], operation: Operation, migration: Migration
    ) -> list[Trace]:
        """Return the traces in their new places, with the owners that the state knows."""
        state, moved = self.state.clone(), traces
        for each in getattr(operation, "database_operations", ()):
            moved = _advance(moved, each, migration, state)
        return [
            trace._replace(places=each.places)
            for trace, each in zip(traces, moved, strict=True)
        ]

    def _adopted(
        self, traces: Sequence[Trace], operation: CreateModel, migration: Migration
    ) -> list[Trace]:
        """Return traces for a new model in whose table another model's objects were."""
        found = []
        names = migration.app_label, operation.name_lower
        for owner in owners_of(self.state, *names):
            place = place_of(self.state, owner)
            if place and Place(place.table) not in self._dropped:
                self.created.add(place)
            found += [
                Trace(owner, each.places)
                for each in traces
                if each.places[-1] == place and each.owner != owner
            ]
        return found


def _advance(
    traces: Sequence[Trace],
    operation: Operation,
    migration: Migration,
    state: ProjectState,
) -> list[Trace]:
    """Apply the operation to the state, and return the traces after it."""
    old = [place_of(state, each.owner) for each in traces]
    operation.state_forwards(migration.app_label, state)
    owners = [_renamed(each.owner, operation, migration.app_label) for each in traces]
    return [
        trace.moved_to(owner, place, place_of(state, owner))
        for trace, owner, place in zip(traces, owners, old, strict=True)
    ]


def _renamed(owner: Owner, operation: Operation, app_label: str) -> Owner:
    if owner.app_label != app_label:
        return owner
    if isinstance(operation, RenameModel) and owner.model == operation.old_name_lower:
        return owner._replace(model=operation.new_name_lower)
    if (
        isinstance(operation, RenameField)
        and owner.model == operation.model_name_lower
        and owner.field == operation.old_name
    ):
        return owner._replace(field=operation.new_name)
    return owner
