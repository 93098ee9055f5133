"""Keep the rows of the tenants' schemas on PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.schema_session import BaseSchemas, SchemaResult
from django_safe_init.backends.base.statements import journal_scope
from django_safe_init.backends.base.transaction import Names
from django_safe_init.backends.postgresql.connection_limits import free_connections
from django_safe_init.backends.postgresql.errors import session_error
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_timeout import PostgresLockTimeout
from django_safe_init.backends.postgresql.run_connections import FencedConnections
from django_safe_init.backends.postgresql.run_session import PostgresRunSession
from django_safe_init.backends.postgresql.schema import missing_privilege
from django_safe_init.backends.postgresql.schema_reader import (
    REMEMBER,
    SchemaReader,
    remembered,
)
from django_safe_init.backends.postgresql.schema_session import (
    ENDED,
    PostgresSchemaWorker,
)
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.backends.tenants import Tenancy
from django_safe_init.core.records import (
    OPERATION_TABLE,
    RUN_TABLE,
    STEP_TABLE,
    EntryKind,
)
from django_safe_init.core.schemas import (
    SCHEMA_STEP,
    SCHEMA_TABLE,
    FoundSchema,
    SchemaState,
)

_KNOWN = f"""
    SELECT count(*) FROM {SCHEMA_TABLE} WHERE is_current AND lock_key = %(lock_key)s
"""
_LAST_FAILED = f"""
    SELECT schema FROM (
      SELECT DISTINCT ON (schema) schema, state FROM {SCHEMA_TABLE}
      WHERE lock_key = %(lock_key)s AND state <> '{SchemaState.PENDING.value}'
      ORDER BY schema, id DESC) AS newest
    WHERE state = '{SchemaState.FAILED.value}'
"""
_PLAN = f"""
    INSERT INTO {SCHEMA_TABLE} (lock_key, run_id, schema, state)
    SELECT %(lock_key)s, %(run)s, name, '{SchemaState.PENDING.value}'
    FROM unnest(%(schemas)s::text[]) AS name
"""
#: A step without an effect on others: only a status and the admin show it.
_FAILED_STEP = f"""
    INSERT INTO {STEP_TABLE} (run_id, position, kind, name, backwards, atomic, started_at,
      finished_at, outcome)
    SELECT %(run)s, coalesce(max(position), 0) + 1, '{SCHEMA_STEP}', %(name)s, false, true,
      clock_timestamp() - make_interval(secs => %(seconds)s), clock_timestamp(), 'failed'
    FROM {STEP_TABLE} WHERE run_id = %(run)s
"""
_UNFINISHED = f"""
    SELECT DISTINCT schema FROM {SCHEMA_TABLE}
    WHERE lock_key = %(lock_key)s AND migration IS NOT NULL AND detail IS NOT NULL
"""
_JOURNALED = f"""
    SELECT DISTINCT lock_key FROM {OPERATION_TABLE}
    WHERE starts_with(lock_key, %(scope)s) AND kind <> '{EntryKind.PROGRESS.value}'
"""
#: A forked worker migrates on one connection, and sees on another one if its leader leads.
_CONNECTIONS_OF_A_WORKER = 2
#: The newest runs keep the rows of their schemas.
_RUNS_WITH_ROWS = 50
#: Rows of old runs, and of schemas that were dropped.
_PRUNE = f"""
    DELETE FROM {SCHEMA_TABLE} AS s
    WHERE s.lock_key = %(lock_key)s AND NOT s.is_current AND s.detail IS NULL
      AND (NOT EXISTS (SELECT FROM {RUN_TABLE} r WHERE r.id = s.run_id) OR s.run_id <
        (SELECT min(id) FROM (SELECT id FROM {RUN_TABLE} WHERE lock_key = %(lock_key)s
         ORDER BY id DESC LIMIT {_RUNS_WITH_ROWS}) AS newest));
    DELETE FROM {SCHEMA_TABLE} AS s
    WHERE s.lock_key = %(lock_key)s AND s.is_current AND NOT EXISTS
      (SELECT FROM pg_namespace n WHERE n.nspname = s.schema::name)
"""


def open_schemas(session: PostgresRunSession, tenancy: Tenancy) -> PostgresSchemas:
    """Return the tenants' schemas of a run, whose table of rows exists afterwards."""
    session.recorder.ensure_schemas()
    run = session.recorder.run_id
    return PostgresSchemas(session.context, session.lock, tenancy, run)


class PostgresSchemas(BaseSchemas):
    """The tenants' schemas of one database, on the leader's session."""

    def __init__(
        self, context: Context, lock: AdvisoryLock, tenancy: Tenancy, run: int
    ) -> None:
        self.context = context
        self.session = lock.session
        self.tenancy = tenancy
        self.run = run
        self._lock = lock
        self.reader = SchemaReader(
            self.session, tenancy, context.build, context.settings.lock_key
        )

    @property
    def _params(self) -> dict[str, Any]:
        return {
            **self.reader.params,
            "build": self.context.build.fingerprint,
            "run": self.run,
        }

    def stale(self, receivers: str | None = None) -> list[FoundSchema]:
        return self.reader.stale(receivers)

    def known(self) -> int:
        [(count,)] = self._write(_KNOWN, self._params)
        return int(count)

    def all(self) -> list[FoundSchema]:
        return self.reader.all()

    def complete(self, found: Sequence[FoundSchema]) -> set[str]:
        return self.reader.complete(found)

    def records(self, schema: str) -> Names:
        names = (name.partition(".") for name in self.reader.records(schema))
        return {(app, name) for app, _, name in names}

    def remember(
        self, found: Sequence[FoundSchema], receivers: str | None = None
    ) -> None:
        if found:
            build = self.context.build
            params = remembered(self._params, build, found, receivers)
            self._write(REMEMBER, params)

    def plan(self, found: Sequence[FoundSchema]) -> None:
        names = [each.schema for each in found]
        self._write(_PLAN, {**self._params, "schemas": names})

    def record_failure(self, result: SchemaResult) -> None:
        name = f"{result.schema}: {result.migration}"
        self._write(
            _FAILED_STEP,
            {"run": self.run, "name": name, "seconds": result.seconds},
        )

    def failed(self) -> set[str]:
        return {name for (name,) in self._write(_LAST_FAILED, self._params)}

    def unfinished(self) -> set[str]:
        """Return the schemas in which a non-atomic migration was interrupted."""
        found = {name for (name,) in self._write(_UNFINISHED, self._params)}
        table = self.session.tables.qualified(OPERATION_TABLE)
        [(exists,)] = self._write("SELECT to_regclass(%(t)s) IS NOT NULL", {"t": table})
        if exists:
            scope = journal_scope(self.context.settings.lock_key or "", "")
            rows = self._write(_JOURNALED, {"scope": scope})
            found.update(key[len(scope) :] for (key,) in rows)
        return found

    def note(self, result: SchemaResult) -> None:
        state = {"state": SchemaState.FAILED.value}
        self._write(ENDED, {**self._params, **result._asdict(), **state})

    def prune(self) -> None:
        """Delete the rows that nothing needs any more."""
        self._write(_PRUNE, self._params)

    def max_workers(self) -> int | None:
        free = free_connections(self.session)
        return None if free is None else free // _CONNECTIONS_OF_A_WORKER

    def worker(self, *, forked: bool) -> PostgresSchemaWorker:
        context = self.context

        def make_connections(lock: AdvisoryLock) -> FencedConnections:
            return FencedConnections(
                context.alias, lock, context.direct, context.deadline
            )

        def make_lock_timeout(
            session: Session, fenced: FencedConnections
        ) -> PostgresLockTimeout:
            return PostgresLockTimeout(
                context.settings, session, fenced, context.deadline
            )

        return PostgresSchemaWorker(
            context,
            self.tenancy,
            self._lock,
            self.run,
            make_connections,
            make_lock_timeout,
            forked=forked,
        )

    def _write(self, statement: str, params: Mapping[str, Any]) -> list[Any]:
        try:
            return self.session.rows(statement, params)
        except psycopg.errors.InsufficientPrivilege as exc:
            raise missing_privilege(self.session, exc, [SCHEMA_TABLE]) from exc
        except psycopg.Error as exc:
            raise session_error(exc) from exc
