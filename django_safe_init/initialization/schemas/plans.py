"""Compute the plans of migrations, and their SQL, once for all schemas in the same state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps as installed_apps
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations import Migration, RenameModel, RunSQL
from django.db.migrations.exceptions import InconsistentMigrationHistory
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.db.migrations.state import ProjectState

from django_safe_init.backends.base.schema_session import ReceiverRows
from django_safe_init.backends.base.transaction import Names
from django_safe_init.initialization.interrupted import operations
from django_safe_init.initialization.schemas.replayable import (
    is_replayable,
    runs_python,
)

#: A plan keeps the states, and the models, of its migrations.
_MAX_PLANS = 8


class RecordedLoader(MigrationLoader):
    """A loader of the project's migrations for a known set of records, without a database."""

    def __init__(self, recorded: Collection[tuple[str, str]]) -> None:
        self._recorded = dict.fromkeys(recorded)
        super().__init__(None)

    @property
    def applied_migrations(self) -> dict[tuple[str, str], Any]:
        """The records, which Django would read, or leave empty without a connection."""
        return self._recorded

    @applied_migrations.setter
    def applied_migrations(self, value: object) -> None:
        pass

    def check_history(self) -> None:
        """Raise `InconsistentMigrationHistory` as Django's loader does, without a database."""
        recorded = self._recorded
        for key in recorded:
            if key not in self.graph.nodes:
                continue
            for parent in self.graph.node_map[key].parents:
                replaced = self.replacements.get(parent.key)
                if parent.key in recorded or (
                    replaced is not None
                    and all(m in recorded for m in replaced.replaces)
                ):
                    continue
                raise InconsistentMigrationHistory(
                    f"Migration {key[0]}.{key[1]} is applied before its dependency "
                    f"{parent.key[0]}.{parent.key[1]}."
                )


class _PresentTable(MigrationRecorder):
    """A recorder of a schema whose table of migrations exists."""

    def ensure_schema(self) -> None:
        """Do nothing: Django would list all tables before each record."""


class SchemaExecutor(MigrationExecutor):
    """Django's executor with a loader that is made before, for any number of schemas."""

    def __init__(
        self,
        connection: Any,
        loader: MigrationLoader,
        progress_callback: Callable[..., None] | None = None,
        before_record: Callable[[], None] = lambda: None,
    ) -> None:
        self.connection = connection
        self.loader = loader
        self.recorder = _PresentTable(connection)
        self.progress_callback = progress_callback
        self._before_record = before_record

    def record_migration(self, *args: Any, **kwargs: Any) -> None:
        """Record the migration. The arguments differ between versions of Django."""
        self._before_record()
        super().record_migration(*args, **kwargs)


@dataclass
class PlannedMigration:
    """A migration that schemas in one state lack."""

    migration: Migration
    #: The state before it, without models.
    state: ProjectState
    #: The names under which it is recorded.
    names: Names
    #: Its statements; None if it must run for real.
    statements: list[str] | None = None
    runs_python: bool = False
    #: True if the project's Python or SQL may change more than its schema.
    runs_code: bool = False
    #: The state before it, with models; only of a migration that runs for real.
    rendered: ProjectState | None = None

    @property
    def name(self) -> str:
        """The full name."""
        return f"{self.migration.app_label}.{self.migration.name}"


@dataclass
class Plan:
    """The migrations that schemas in one state lack, in order."""

    loader: RecordedLoader
    migrations: list[PlannedMigration]
    #: The state after the last one.
    state: ProjectState
    #: The squashed migrations to record at the end.
    squashed: Names
    #: True once `statements` are computed.
    is_compiled: bool = False
    #: The models after the last migration, as the receivers of `post_migrate` get them.
    final_apps: Any = None
    #: The rows that Django's own receivers create after it.
    rows: ReceiverRows | None = None
    pairs: list[tuple[Migration, bool]] = field(default_factory=list)

    @property
    def may_stop_halfway(self) -> bool:
        """True if a migration is not atomic, so that a part of it may be left."""
        return any(not planned.migration.atomic for planned in self.migrations)

    @property
    def renames_models(self) -> bool:
        """True if a receiver of `post_migrate` may have to rename rows."""
        return any(
            isinstance(operation, RenameModel)
            for planned in self.migrations
            for operation in planned.migration.operations
        )


class Planner:
    """Makes one plan for each kind of tenant and each set of records, and keeps the newest."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._plans: dict[tuple[str, frozenset[tuple[str, str]]], Plan] = {}
        self._known = _known_names()

    def plan(self, kind: str, recorded: Collection[tuple[str, str]]) -> Plan:
        """Return the plan, with the states, and without SQL."""
        # Schemas may differ in the records of apps that the project has not any more.
        names = self._known.intersection(recorded)
        plan = self._plans.pop((kind, names), None) or self._make(names)
        self._plans[kind, names] = plan
        while len(self._plans) > _MAX_PLANS:
            del self._plans[next(iter(self._plans))]
        return plan

    def _make(self, recorded: Collection[tuple[str, str]]) -> Plan:
        loader = RecordedLoader(recorded)
        loader.check_history()
        executor: Any = SchemaExecutor(None, loader)
        wanted = executor.migration_plan(loader.graph.leaf_nodes())
        full = executor.migration_plan(loader.graph.leaf_nodes(), clean_start=True)
        pairs = [pair for pair in full if pair in wanted]
        state = executor._create_project_state(with_applied_migrations=True)
        planned = []
        for migration, _ in pairs:
            planned.append(
                PlannedMigration(migration, state, recorded_names(executor, migration))
            )
            state = migration.mutate_state(state, preserve=True)
        squashed = _squashed(loader, recorded, planned)
        return Plan(loader, planned, state, squashed, pairs=pairs)

    def compile(self, plan: Plan, connection: BaseDatabaseWrapper) -> None:
        """Compute the statements of the plan, once, in a schema of its kind that is active."""
        if plan.is_compiled:
            return
        if plan.migrations:
            _inject_renames(self.alias, plan)
        state = plan.migrations[0].state.clone() if plan.migrations else plan.state
        if plan.migrations:
            state.apps  # noqa: B018  (rendered once, as by Django's executor)
        for planned in plan.migrations:
            planned.runs_python = runs_python(planned.migration)
            planned.runs_code = planned.runs_python or any(
                isinstance(each, RunSQL) for each in operations(planned.migration)
            )
            planned.rendered = state.clone()
            planned.statements = _statements(planned.migration, state, connection)
            if planned.statements is not None:
                planned.rendered = None
            state = planned.migration.mutate_state(state, preserve=True)
        plan.is_compiled = True


def _known_names() -> frozenset[tuple[str, str]]:
    """Return the names of the migrations on disk, and of the migrations they replace."""
    migrations = MigrationLoader(None).disk_migrations
    replaced = (each.replaces for each in migrations.values())
    return frozenset(migrations).union(*map(_pairs, replaced))


def _pairs(names: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(app, name) for app, name in names}


def recorded_names(executor: MigrationExecutor, migration: Migration) -> Names:
    """Return the names under which Django's executor records the migration."""
    names: Names = set()

    class Recorder:
        def record_applied(self, app: str, name: str) -> None:
            names.add((app, name))

    class Recording(SchemaExecutor):
        def __init__(self) -> None:
            self.loader = executor.loader
            self._before_record = lambda: None
            self.recorder = Recorder()  # type: ignore[assignment]  # its only method used here

    recording: Any = Recording()
    try:
        recording.record_migration(migration)
    except TypeError:  # Django 6.1 takes the names
        recording.record_migration(migration.app_label, migration.name)
    return names


def _squashed(
    loader: RecordedLoader,
    recorded: Collection[tuple[str, str]],
    planned: list[PlannedMigration],
) -> Names:
    """Return the squashed migrations that Django records once all they replace are recorded."""
    applied = set(recorded).union(*(each.names for each in planned))
    found: Names = set()
    before = -1
    while len(found) != before:  # a squashed migration may replace another one
        before = len(found)
        for key, migration in loader.replacements.items():
            if key not in applied and applied.issuperset(migration.replaces):
                found.add(key)
                applied.add(key)
    return found


def _inject_renames(alias: str, plan: Plan) -> None:
    """Let the receiver of contenttypes add the operations that rename content types.

    It changes the migrations, so it is called once for all schemas of the plan. It asks the
    routers, so a schema of the plan's kind is active.
    """
    if not installed_apps.is_installed("django.contrib.contenttypes"):
        return
    from django.contrib.contenttypes.management import (
        inject_rename_contenttypes_operations,
    )

    if plan.renames_models:
        inject_rename_contenttypes_operations(
            plan=plan.pairs, apps=plan.migrations[0].state.clone().apps, using=alias
        )


class _Reads(Exception):
    """The migration reads the database, so its SQL depends on the schema."""


def _refuse(execute: Callable[..., Any], statement: str, *args: Any) -> Any:
    """Raise `_Reads` for any statement but that with which a package sets the search path."""
    if str(statement).startswith("SET search_path"):
        return execute(statement, *args)
    raise _Reads


def _statements(
    migration: Migration, state: ProjectState, connection: BaseDatabaseWrapper
) -> list[str] | None:
    """Return the SQL of the migration if it is the same in all schemas of the plan."""
    if not is_replayable(migration, state, connection):
        return None
    try:
        with (
            connection.execute_wrapper(_refuse),
            connection.schema_editor(collect_sql=True, atomic=True) as editor,
        ):
            # Not with `collect_sql`, which adds comments.
            migration.apply(state.clone(), editor)
    except Exception:  # noqa: BLE001  (it fails again where it runs for real)
        return None
    return list(editor.collected_sql)
