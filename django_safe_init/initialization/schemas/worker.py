"""Migrate one tenant's schema after another on the connections of a worker."""

from __future__ import annotations

import logging
import random
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db import DatabaseError
from django.db.migrations.state import ProjectState

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.run_session import ErrorKind
from django_safe_init.backends.base.schema_session import (
    BaseSchemaSession,
    BaseSchemaWorker,
    SchemaResult,
)
from django_safe_init.backends.base.transaction import Names
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.text import message_of, one_line, stored_traceback, wrap
from django_safe_init.exceptions import LockLost, SafeInitError
from django_safe_init.initialization.interrupted import InterruptedSteps
from django_safe_init.initialization.run_context import run_context
from django_safe_init.initialization.schemas.plans import (
    Plan,
    PlannedMigration,
    Planner,
    SchemaExecutor,
)
from django_safe_init.initialization.schemas.receivers import Receivers
from django_safe_init.initialization.tracker import MigrationTracker
from django_safe_init.tenants import Tenancy, Tenant

logger = logging.getLogger("django_safe_init")

#: Attempts for a schema whose error another attempt may not meet, such as a deadlock.
_ATTEMPTS = 10
#: The longest pause before another attempt, in seconds.
_LONGEST_PAUSE = 2.0

#: Runs Django's `migrate` in the schema that is active, with a target or options of a person.
Migrate = Callable[[], None]


class SchemaFailed(Exception):
    """A schema's migration failed; the cause is the error."""

    def __init__(self, migration: str | None) -> None:
        super().__init__(migration)
        self.migration = migration


class SchemaWorker:
    """Migrates schemas on one connection of the run.

    `migrate` replaces the plan, for a person's command with a target or with options.
    """

    def __init__(
        self,
        context: Context,
        tenancy: Tenancy,
        connections: BaseSchemaWorker,
        planner: Planner,
        *,
        receivers_digest: str = "",
        unfinished: frozenset[str] = frozenset(),
        rerun: tuple[str, ...] = (),
        resume: tuple[str, ...] = (),
        migrate: Migrate | None = None,
        fake: bool = False,
        target: tuple[str, str] | None = None,
    ) -> None:
        self.context = context
        self.tenancy = tenancy
        self.connections = connections
        self.planner = planner
        self.receivers = Receivers(context.alias)
        self._digest = receivers_digest
        self._unfinished = unfinished
        self._rerun, self._resume = rerun, resume
        self._migrate = migrate
        self._fake = fake
        self._target = target

    def work(self, tenant: Tenant) -> SchemaResult:
        """Migrate the schema and write its row. Raises `LockLost`; other errors are a result."""
        started = time.monotonic()
        session = self.connections.open(*tenant)
        if not session.try_lock():
            return SchemaResult(tenant.schema, is_busy=True)
        try:
            result = self._result(session, tenant, started)
            session.finish(result)
            return result
        finally:
            session.unlock()

    def _result(
        self, session: BaseSchemaSession, tenant: Tenant, started: float
    ) -> SchemaResult:
        for attempt in range(_ATTEMPTS):
            try:
                applied = self._attempt(session, tenant)
                digest = "" if self._migrate else self._digest
                return SchemaResult(
                    tenant.schema,
                    seconds=time.monotonic() - started,
                    applied=applied,
                    receivers=digest,
                )
            except LockLost:
                raise
            except Exception as exc:
                failure = exc if isinstance(exc, SchemaFailed) else None
                cause = (failure and failure.__cause__) or exc
                kind = session.classify(cause)
                if kind is ErrorKind.LOST:
                    raise LockLost(
                        f"The connection that migrates the schema {tenant.schema!r} was lost: "
                        f"{one_line(cause)}"
                    ) from exc
                again = kind is ErrorKind.TRANSIENT and attempt < _ATTEMPTS - 1
                if not again:
                    return self._failed(session, tenant, cause, failure, started)
                logger.info("%s: again after: %s", tenant.schema, one_line(cause))
            self._reset(session)
            sleep(random.uniform(0.05, min(_LONGEST_PAUSE, 0.1 * 2**attempt)))
        raise AssertionError("unreachable")

    def _failed(
        self,
        session: BaseSchemaSession,
        tenant: Tenant,
        cause: BaseException,
        failure: SchemaFailed | None,
        started: float,
    ) -> SchemaResult:
        self._reset(session)
        with suppress(DatabaseError):
            is_static = (
                tenant in self.tenancy.static_tenants
            )  # a run creates its schema
            if not is_static and not session.exists():
                return SchemaResult(tenant.schema, is_missing=True)
        name = failure.migration if failure else None
        text = message_of(cause)
        if not isinstance(cause, SafeInitError):
            text = wrap(f"{type(cause).__name__}: ", text)
        return SchemaResult(
            tenant.schema,
            error=text if name is None or name in text else wrap(f"{name}: ", text),
            migration=name,
            seconds=time.monotonic() - started,
            traceback=stored_traceback(cause),
        )

    def _reset(self, session: BaseSchemaSession) -> None:
        """End a transaction that the failed work has left open."""
        connection: Any = session.connection
        if connection.connection is not None and connection.in_atomic_block:
            connection.close()  # no code of the worker keeps a transaction open

    def _attempt(self, session: BaseSchemaSession, tenant: Tenant) -> int:
        if not session.is_present and tenant in self.tenancy.static_tenants:
            session.create()
        if not session.is_present:
            raise SchemaFailed(None) from LookupError("The schema does not exist.")
        with self.tenancy.active(session.connection, tenant):
            self.tenancy.before_migrate(tenant.schema)
            if self._migrate is None:
                applied = self._apply_plan(session, tenant)
            else:
                applied = self._run_command(session, self._migrate)
            self.tenancy.after_migrate(tenant.schema)
        return applied

    def _apply_plan(self, session: BaseSchemaSession, tenant: Tenant) -> int:
        recorded = self._recorded(session)
        interrupted = self.interrupted(session)
        if interrupted.steps:
            with self.tracked(session, interrupted, recorded) as tracker:
                tracker.half_done.prepare(session.connection, tracker, None)
            recorded = self._recorded(session)
        plan = self.planner.plan(tenant.kind, recorded)
        self.planner.compile(plan, session.connection)
        self.receivers.before(plan)
        _Applying(self, session, plan, interrupted, recorded).run()
        if plan.squashed:
            session.replay("the squashed migrations", [], plan.squashed)
        session.create_rows(self.receivers.rows(plan, tenant.kind))
        with run_context(self.context.alias, None):
            self.receivers.after(plan)
        return len(plan.migrations)

    def _recorded(self, session: BaseSchemaSession) -> Names:
        """Return the recorded migrations of a schema, which gets their table if need be."""
        recorded = session.recorded()
        if recorded is None:
            self._create_table(session)
            recorded = set()
        return recorded

    def _create_table(self, session: BaseSchemaSession) -> None:
        executor = SchemaExecutor(session.connection, self.planner.plan("", ()).loader)
        with session.connection.schema_editor(collect_sql=True) as editor:
            editor.create_model(executor.recorder.Migration)
        session.replay("the table of migrations", editor.collected_sql, ())

    def interrupted(self, session: BaseSchemaSession) -> InterruptedSteps:
        """Return what earlier runs have left unfinished in the schema."""
        settings = self.context.settings
        is_known = self._rerun or self._resume or session.schema in self._unfinished
        return InterruptedSteps(
            session,
            settings,
            self._rerun,
            self.context.alias,
            self._resume,
            where=f" --schema {shlex.quote(session.schema)}",
            is_known_clean=not is_known,
        )

    @contextmanager
    def tracked(
        self,
        session: BaseSchemaSession,
        interrupted: InterruptedSteps,
        recorded: Names,
    ) -> Iterator[MigrationTracker]:
        """Track the migrations of the block, which run for real."""
        connection = session.connection
        if not self._fake:
            interrupted.complete_reversals(connection)
        tracker = MigrationTracker(
            connection, session, interrupted, self.context.report, recorded=recorded
        )
        with tracker, run_context(self.context.alias, tracker):
            try:
                yield tracker
            except LockLost:
                raise
            except Exception as exc:
                raise SchemaFailed(tracker.current) from exc

    def _run_command(self, session: BaseSchemaSession, migrate: Migrate) -> int:
        interrupted = self.interrupted(session)
        with self.tracked(session, interrupted, self._recorded(session)) as tracker:
            half_done, target = tracker.half_done, self._target
            if self._fake:
                half_done.accept_fake(session.connection, target)
            else:
                half_done.prepare(session.connection, tracker, target)
            migrate()
        return len(tracker.applied)


class _Applying:
    """Applies the plan of one schema: replays what it can, and runs the rest for real."""

    def __init__(
        self,
        worker: SchemaWorker,
        session: BaseSchemaSession,
        plan: Plan,
        interrupted: InterruptedSteps,
        recorded: Names,
    ) -> None:
        self.interrupted = interrupted
        self.worker = worker
        self.session = session
        self.plan = plan
        self.recorded = set(recorded)

    def run(self) -> None:
        """Apply all migrations, in order."""
        for planned in self.plan.migrations:
            is_unfinished = planned.name in self.interrupted.steps
            if planned.statements is None or is_unfinished:
                self._run(planned)
            else:
                self._replay(planned, planned.statements)
            self.recorded |= planned.names

    def _replay(self, planned: PlannedMigration, statements: list[str]) -> None:
        try:
            self.session.replay(planned.name, statements, planned.names)
        except LockLost:
            raise
        except Exception as exc:
            raise SchemaFailed(planned.name) from exc

    def _run(self, planned: PlannedMigration) -> None:
        session = self.session
        with self.worker.tracked(session, self.interrupted, self.recorded) as tracker:

            def report(action: str, migration: Any = None, fake: bool = False) -> None:
                if action == "apply_start":
                    tracker.on_apply_start(migration, backwards=False, fake=fake)
                elif action == "apply_success":
                    tracker.on_apply_success(fake=fake)

            executor = SchemaExecutor(session.connection, self.plan.loader, report)
            executor.apply_migration(_state_before(planned), planned.migration)


def _state_before(planned: PlannedMigration) -> ProjectState:
    """Return the state with models that no other schema has used, if Python runs on them.

    The managers of these models keep rows in caches, by alias and not by schema.
    """
    if planned.runs_python or planned.rendered is None:
        state = planned.state.clone()
        vars(state).pop("apps", None)
    else:
        state = planned.rendered.clone()
    state.apps  # noqa: B018  (rendered before, as by Django's executor)
    return state
