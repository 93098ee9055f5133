"""Migrate one tenant's schema after another on the connections of a worker."""

from __future__ import annotations

import logging
import random
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice, takewhile
from typing import Any

from django.apps import apps as installed_apps
from django.db import DatabaseError
from django.db.migrations.recorder import MigrationRecorder
from django.db.migrations.state import ProjectState

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.run_session import ErrorKind
from django_safe_init.backends.base.schema_session import (
    BaseSchemaSession,
    BaseSchemaWorker,
    Replay,
    SchemaChanged,
    SchemaResult,
)
from django_safe_init.backends.base.transaction import Names
from django_safe_init.backends.tenants import Tenancy, Tenant
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.text import (
    message_of,
    name_some,
    one_line,
    stored_traceback,
    wrap,
)
from django_safe_init.exceptions import InitializationFailed, LockLost, SafeInitError
from django_safe_init.initialization.interrupted import InterruptedSteps
from django_safe_init.initialization.lock_retry import LockTimeoutRetry
from django_safe_init.initialization.run_context import run_context
from django_safe_init.initialization.schemas.plans import (
    Plan,
    PlannedMigration,
    Planner,
    SchemaExecutor,
)
from django_safe_init.initialization.schemas.receivers import Receivers, clear_caches
from django_safe_init.initialization.tracker import MigrationTracker
from django_safe_init.initialization.types import MigrateTask

logger = logging.getLogger("django_safe_init")

#: Attempts for a schema whose error another attempt may not meet, such as a deadlock.
_ATTEMPTS = 10
#: Attempts for a schema that lacks what it has found to exist.
_ATTEMPTS_AFTER_COLLISION = 3
#: A migration that ends its own connection must not keep the other schemas waiting.
_MAX_LOSSES = 1
#: Migrations that are sent to the server in one message.
_GROUP_SIZE = 50
#: The longest pause before another attempt, in seconds.
_LONGEST_PAUSE = 2.0

#: Runs Django's `migrate` in the schema that is active, with a target or options of a person.
Migrate = Callable[[], None]


class SchemaFailed(Exception):
    """A schema's migration failed; the cause is the error."""

    def __init__(self, migration: str | None) -> None:
        super().__init__(migration)
        self.migration = migration


@contextmanager
def _own_caches() -> Iterator[None]:
    """Keep the rows that managers cache from other schemas: they know the alias only."""
    clear_caches(installed_apps)
    try:
        yield
    finally:
        clear_caches(installed_apps)


class SchemaWorker:
    """Migrates schemas on one connection of the run.

    The task of the run tells what a person asked for: options of single schemas, or a `migrate`
    that replaces the plan.
    """

    def __init__(
        self,
        context: Context,
        tenancy: Tenancy,
        connections: BaseSchemaWorker,
        planner: Planner,
        task: MigrateTask,
        receivers_digest: str,
        unfinished: frozenset[str],
    ) -> None:
        self.context = context
        self.tenancy = tenancy
        self.connections = connections
        self.planner = planner
        self.receivers = Receivers(context.alias)
        # Without named schemas, the names of migrations are about the shared schema.
        if task.schemas.shared:
            task = replace(task, rerun=(), resume=())
        self.task = task
        self._migrate = task.schemas.migrate
        self._digest = "" if self._migrate else receivers_digest
        self._unfinished = unfinished

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
        attempt = losses = 0
        while True:
            try:
                # The error of a group may not tell which of its migrations failed.
                group_size = _GROUP_SIZE if attempt == 0 else 1
                applied = self._attempt(session, tenant, group_size)
            except LockLost as exc:
                # Without the schema, the connection reads the records of the shared one.
                if not self._is_gone(session):
                    raise
                return self._failed(session, tenant, exc, None, started)
            except (Exception, SystemExit) as exc:  # noqa: BLE001  (code of the project)
                attempt += 1
                failure = exc if isinstance(exc, SchemaFailed) else None
                cause = (failure and failure.__cause__) or exc
                kind = _kind(session, cause)
                if kind is ErrorKind.LOST:
                    losses += 1
                    session.recover()
                attempts = _attempts(session, kind, cause)
                if attempt >= attempts or losses > _MAX_LOSSES:
                    return self._failed(session, tenant, cause, failure, started)
                logger.info("%s: again after: %s", tenant.schema, one_line(cause))
            else:
                return SchemaResult(
                    tenant.schema,
                    seconds=time.monotonic() - started,
                    applied=applied,
                    receivers=self._digest,
                )
            self._reset(session)
            with suppress(DatabaseError):  # the next attempt meets it again
                session.refresh()
            sleep(random.uniform(0.05, min(_LONGEST_PAUSE, 0.1 * 2**attempt)))

    def _failed(
        self,
        session: BaseSchemaSession,
        tenant: Tenant,
        cause: BaseException,
        failure: SchemaFailed | None,
        started: float,
    ) -> SchemaResult:
        if self._is_gone(session):
            if not self.tenancy.creates_schemas:
                return SchemaResult(tenant.schema, is_missing=True)
            if session.is_present:
                cause = InitializationFailed(
                    "The schema was dropped while it was migrated."
                )
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

    def _is_gone(self, session: BaseSchemaSession) -> bool:
        """Return True if this process leads, and the schema does not exist."""
        with suppress(DatabaseError, SafeInitError):
            self._reset(session)
            session.verify()
            return not session.exists()
        return False

    def _reset(self, session: BaseSchemaSession) -> None:
        """End a transaction that the failed work has left open, and the connection with it."""
        if session.connection.in_atomic_block:
            session.recover()

    def _attempt(
        self, session: BaseSchemaSession, tenant: Tenant, group_size: int
    ) -> int:
        if not session.is_present:
            if not self.tenancy.creates_schemas:
                raise SchemaFailed(None) from LookupError("The schema does not exist.")
            session.create()
        with self.tenancy.active(session.connection, tenant), _own_caches():
            self.tenancy.before_migrate(tenant.schema)
            if self._migrate is None:
                applied = self._apply_plan(session, tenant, group_size)
            else:
                applied = self._run_command(session, self._migrate)
            self.tenancy.after_migrate(tenant.schema)
        return applied

    def _apply_plan(
        self, session: BaseSchemaSession, tenant: Tenant, group_size: int
    ) -> int:
        recorded = self._recorded(session)
        plan = self._plan(session, tenant, recorded)
        # Another worker, or an earlier attempt, may have begun a migration of the plan.
        interrupted = self.interrupted(session, may_exist=plan.may_stop_halfway)
        if interrupted.steps:
            with self.tracked(session, interrupted, recorded) as tracker:
                tracker.half_done.prepare(session.connection, tracker, None)
            recorded = self._recorded(session)
            plan = self._plan(session, tenant, recorded)
        planned = self.receivers.before(plan)
        applying = _Applying(self, session, plan, interrupted, recorded)
        applying.run(planned, group_size)
        if plan.squashed:
            session.replay([Replay("the squashed migrations", [], plan.squashed)])
        session.create_rows(self.receivers.rows(plan))
        session.ran_code |= self.receivers.run_code
        with run_context(self.context.alias, None):
            self.receivers.after(plan)
        if session.ran_code:
            self._check_recorded(session, plan)
        return len(plan.migrations)

    def _plan(
        self, session: BaseSchemaSession, tenant: Tenant, recorded: Names
    ) -> Plan:
        plan = self.planner.plan(tenant.kind, recorded)
        self.planner.compile(plan, session.connection)
        return plan

    def _check_recorded(self, session: BaseSchemaSession, plan: Plan) -> None:
        """Raise `InitializationFailed` if code of the project has undone or moved a record."""
        wanted = plan.squashed.union(*(each.names for each in plan.migrations))
        missing = wanted.difference(session.recorded() or ())
        if missing:
            names = name_some(sorted(f"{app}.{name}" for app, name in missing))
            raise InitializationFailed(f"Not recorded after its migrations: {names}.")

    def _recorded(self, session: BaseSchemaSession) -> Names:
        """Return the recorded migrations, in a table that is created if it is missing."""
        recorded = self._read_recorded(session)
        if recorded is None:
            if session.schema in self._unfinished:
                session.forget_unfinished()  # of a schema with this name, which was dropped
            with session.connection.schema_editor(collect_sql=True) as editor:
                editor.create_model(MigrationRecorder.Migration)
            session.create_table(editor.collected_sql)
        return recorded or set()

    def _read_recorded(self, session: BaseSchemaSession) -> Names | None:
        """Read the table of migrations, with another attempt if another session locks it."""
        timeout = session.lock_timeout
        if timeout is None or timeout.policy is None:
            return session.recorded()
        try:
            return session.recorded()
        except DatabaseError as exc:
            if not timeout.is_timeout(exc):
                raise
        found: list[Names | None] = []
        retry = LockTimeoutRetry(
            timeout,
            timeout.policy,
            session,
            session.transaction(session.connection),
            self.context.report,
        )
        with retry.watched():
            retry.repeat(
                f"Reading the migrations of {session.schema!r}",
                lambda: found.append(session.recorded()),
            )
        return found[0]

    def interrupted(
        self, session: BaseSchemaSession, *, may_exist: bool
    ) -> InterruptedSteps:
        """Return what earlier runs have left unfinished in the schema."""
        task = self.task
        may_exist |= session.schema in self._unfinished
        may_exist |= bool(task.rerun or task.resume)
        return InterruptedSteps(
            session,
            self.context.settings,
            task.rerun,
            self.context.alias,
            task.resume,
            where=f" --schema {shlex.quote(session.schema)}",
            is_known_clean=not may_exist,
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
        if not self.task.fake:
            interrupted.complete_reversals(connection)
        tracker = MigrationTracker(
            connection, session, interrupted, self.context.report, recorded=recorded
        )
        with tracker, run_context(self.context.alias, tracker):
            try:
                yield tracker
            except LockLost:
                raise
            except (Exception, SystemExit) as exc:
                raise SchemaFailed(tracker.current) from exc

    def _run_command(self, session: BaseSchemaSession, migrate: Migrate) -> int:
        connection, target = session.connection, self.task.target
        session.ran_code = True
        recorded = self._recorded(session)
        interrupted = self.interrupted(session, may_exist=True)
        with self.tracked(session, interrupted, recorded) as tracker:
            if self.task.fake:
                tracker.half_done.accept_fake(connection, target)
            else:
                tracker.half_done.prepare(connection, tracker, target)
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

    def run(self, left: list[PlannedMigration], group_size: int) -> None:
        """Apply the migrations, in order."""
        while left:
            group = list(islice(takewhile(self._is_replayable, left), group_size))
            done = self._replay(group) if group else self._run(left[0])
            self.recorded.update(*(each.names for each in left[:done]))
            left = left[done:]

    def _is_replayable(self, planned: PlannedMigration) -> bool:
        is_unfinished = planned.name in self.interrupted.steps
        return planned.statements is not None and not is_unfinished

    def _replay(self, group: list[PlannedMigration]) -> int:
        """Replay the group, and return how many of its migrations are applied."""
        session = self.session
        session.ran_code |= any(each.runs_code for each in group)
        try:
            session.replay(
                [Replay(each.name, each.statements or (), each.names) for each in group]
            )
        except (LockLost, SchemaChanged):
            raise
        except Exception as exc:
            if session.was_refused(exc):
                return self._replay_singly(group)
            failed = self._failed(group, exc)
            if failed is None:
                raise SchemaFailed(None) from exc
            timeout = session.lock_timeout
            if timeout is None or not timeout.is_timeout(exc):
                raise SchemaFailed(failed.name) from exc
            # It is tried again for real, which names the sessions that block it.
            return group.index(failed) + self._run(failed)
        return len(group)

    def _replay_singly(self, group: list[PlannedMigration]) -> int:
        """Replay one after the other. A single one runs for real, for an exact error."""
        if len(group) == 1:
            return self._run(group[0])
        recorded = self.session.recorded() or set()
        for each in group:
            if not each.names <= recorded:
                self._replay([each])
        return len(group)

    def _failed(
        self, group: list[PlannedMigration], error: Exception
    ) -> PlannedMigration | None:
        """Return the migration of the group that failed; None if the connection is lost."""
        if len(group) == 1:
            return group[0]
        if self.session.classify(error) is ErrorKind.LOST:
            return None
        recorded = self.session.recorded() or set()
        return next((each for each in group if not each.names <= recorded), None)

    def _check_schema(self) -> None:
        """Raise `InitializationFailed` if a migration has left another schema active."""
        session = self.session
        active = self.worker.tenancy.active_schema(session.connection)
        if active != session.schema:
            raise InitializationFailed(
                f"It has left the schema {active!r} active, in which it would be recorded. Let the "
                "migration activate its own schema again."
            )
        current = session.current_schema()
        if current != session.schema:
            raise InitializationFailed(
                f"It would be recorded in the schema {current!r}: it has changed the search path, "
                "or its own schema was renamed or dropped."
            )

    def _run(self, planned: PlannedMigration) -> int:
        """Apply the migration as Django does, and return 1."""
        session = self.session
        with self.worker.tracked(session, self.interrupted, self.recorded) as tracker:

            def report(action: str, migration: Any, fake: bool) -> None:
                if action == "apply_start":
                    tracker.on_apply_start(migration, backwards=False, fake=fake)
                else:
                    tracker.on_apply_success(fake=fake)

            session.ran_code |= planned.runs_code
            executor = SchemaExecutor(
                session.connection, self.plan.loader, report, self._check_schema
            )
            executor.apply_migration(_state_before(planned), planned.migration)
        return 1


def _kind(session: BaseSchemaSession, cause: BaseException) -> ErrorKind:
    """Return what the error means for the schema."""
    if isinstance(cause, SchemaChanged):
        return ErrorKind.TRANSIENT
    return session.classify(cause)


def _attempts(session: BaseSchemaSession, kind: ErrorKind, cause: BaseException) -> int:
    """Return how many attempts a schema has after the error."""
    if kind is not ErrorKind.OTHER:
        return _ATTEMPTS
    return _ATTEMPTS_AFTER_COLLISION if session.may_collide(cause) else 1


def _state_before(planned: PlannedMigration) -> ProjectState:
    """Return the state with models that no other schema has used, if Python runs on them.

    The managers of these models keep rows in caches, by alias and not by schema.
    """
    rendered = None if planned.runs_python else planned.rendered
    state = (rendered or planned.state).clone()
    state.apps  # noqa: B018  (rendered before, as by Django's executor)
    return state
