"""Migrate one tenant's schema on PostgreSQL."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.pq import TransactionStatus

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.recorder import Fence
from django_safe_init.backends.base.run_session import ErrorKind
from django_safe_init.backends.base.schema_session import (
    BaseSchemaSession,
    BaseSchemaWorker,
    ReceiverRows,
    Replay,
    SchemaChanged,
    SchemaResult,
)
from django_safe_init.backends.base.statements import journal_scope
from django_safe_init.backends.base.transaction import Names
from django_safe_init.backends.postgresql.connect import connect, create_direct_wrapper
from django_safe_init.backends.postgresql.errors import session_error
from django_safe_init.backends.postgresql.lock import (
    AdvisoryLock,
    BorrowedLock,
    LockSnapshot,
)
from django_safe_init.backends.postgresql.lock_keys import HELD, schema_key
from django_safe_init.backends.postgresql.project_connection import (
    SEARCH_PATH,
    pinned_rows,
    plain_cursor,
    results,
)
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.run_session import PostgresRunSession
from django_safe_init.backends.postgresql.schema import unusable_schema
from django_safe_init.backends.postgresql.schema_reader import (
    COUNTED_SINCE,
    SchemaReader,
)
from django_safe_init.backends.postgresql.session import Session, quoted
from django_safe_init.backends.postgresql.transaction import (
    ASYNCHRONOUS,
    PostgresTransaction,
)
from django_safe_init.backends.tenants import Tenancy
from django_safe_init.core.databases import migration_table_name
from django_safe_init.core.records import (
    OPERATION_TABLE,
    InterruptedStep,
    JournalEntry,
)
from django_safe_init.core.schemas import SCHEMA_TABLE, SchemaState
from django_safe_init.core.text import escape, exception_chain
from django_safe_init.exceptions import LockLost

#: The connection of a worker is replaced after so many schemas. The server keeps what it knows
#: of each table that a session has used.
_SCHEMAS_PER_CONNECTION = 200

#: This session holds the work key and the schema's key, and its leader leads.
_FENCE = f"""
    SELECT coalesce(bool_or(pid = pg_backend_pid() AND key = %(work_key)s), false)
       AND coalesce(bool_or(pid = pg_backend_pid() AND key = %(schema_key)s), false)
       AND coalesce(bool_or(pid = %(leader)s AND key = %(leader_key)s), false) FROM {HELD}
"""
_VERIFY = f"""
    SELECT coalesce(bool_or(pid = %(leader)s AND key = %(leader_key)s), false),
      coalesce(array_agg(pid) FILTER (WHERE key = %(work_key)s), '{{}}'),
      coalesce(bool_or(pid = %(pid)s AND key = %(schema_key)s), false) FROM {HELD}
"""
_EXISTS = f"""
    SELECT n.oid::bigint, c.oid IS NOT NULL,
      coalesce(pg_stat_get_tuples_updated(c.oid), 0),
      coalesce(pg_stat_get_tuples_deleted(c.oid), 0), {COUNTED_SINCE},
      coalesce(has_schema_privilege(n.oid, 'USAGE'), true)
    FROM (VALUES (%(schema)s::name)) AS s (name)
    LEFT JOIN pg_namespace n ON n.nspname = s.name
    LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = %(table)s::name
      AND c.relkind IN ('r', 'p')
"""
#: Reads the catalog, because `current_schema()` does not notice a schema that another
#: session has renamed or dropped during the transaction.
_CURRENT_SCHEMA = """
    SELECT nspname::pg_catalog.text FROM pg_catalog.pg_namespace
    WHERE nspname OPERATOR(pg_catalog.=) pg_catalog.current_schema()
      AND oid OPERATOR(pg_catalog.=) coalesce(%(oid)s::pg_catalog.oid, oid)
"""
#: Divides by zero unless both checks of a replay are as they should be.
_ALL = "1 / CASE WHEN c.fenced AND NOT c.recorded THEN 1 ELSE 0 END"
#: What code may leave in a session, except the search path: settings, temporary tables, cursors,
#: statements, channels, and locks beside the two keys.
_SESSION_STATE = f"""
    SELECT concat_ws('|',
      (SELECT md5(string_agg(name || '=' || setting, ',' ORDER BY name)) FROM pg_settings
       WHERE source = 'session' AND name <> 'search_path'),
      pg_my_temp_schema(), (SELECT count(*) FROM pg_listening_channels()),
      (SELECT count(*) FROM pg_cursor() WHERE is_holdable),
      (SELECT count(*) FROM pg_prepared_statement()),
      (SELECT count(*) > 2 FROM {HELD} WHERE pid = pg_backend_pid()))
"""
_TRY_LOCK = "SELECT pg_try_advisory_lock(%(schema_key)s)"
#: "The object exists already", which may be true only since another worker has committed.
_COLLISIONS = (
    psycopg.errors.DuplicateFunction,
    psycopg.errors.DuplicateObject,
    psycopg.errors.DuplicateSchema,
    psycopg.errors.DuplicateTable,
)
#: Found in the text of a message before its first statement is executed, or in dynamic SQL.
_REFUSALS = (
    psycopg.errors.CharacterNotInRepertoire,
    psycopg.errors.SyntaxError,
    psycopg.errors.UntranslatableCharacter,
)
_UNLOCK = "SELECT pg_advisory_unlock(%(schema_key)s)"
#: Makes the statistics of this session visible before its next statement (PostgreSQL 15).
_FLUSH_STATISTICS = "SELECT pg_catalog.pg_stat_force_next_flush()"

_DONE = f"""
    UPDATE {SCHEMA_TABLE} SET is_current = false, migration = NULL
    WHERE lock_key = %(lock_key)s AND schema = %(schema)s
      AND (is_current OR migration IS NOT NULL) AND run_id IS DISTINCT FROM %(run)s;
    UPDATE {SCHEMA_TABLE} AS s SET state = '{SchemaState.DONE.value}', is_current = true,
      build = %(build)s, migrations = %(migrations)s, receivers = %(receivers)s,
      migration = NULL, error = NULL, detail = NULL,
      started_at = clock_timestamp() - make_interval(secs => %(seconds)s),
      finished_at = clock_timestamp(), table_oid = c.oid::bigint,
      table_file = c.relfilenode::bigint,
      inserted = coalesce(pg_stat_get_tuples_inserted(c.oid), 0),
      updated = %(updated)s, deleted = %(deleted)s, counted_since = %(counted_since)s
    FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
    WHERE n.nspname = %(schema)s::name AND c.relname = %(table)s::name
      AND c.relkind IN ('r', 'p') AND run_id = %(run)s AND schema = %(schema)s
"""
ENDED = f"""
    UPDATE {SCHEMA_TABLE} SET state = %(state)s, error = %(error)s,
      migration = coalesce(%(migration)s, migration),
      started_at = clock_timestamp() - make_interval(secs => %(seconds)s),
      finished_at = clock_timestamp()
    WHERE run_id = %(run)s AND schema = %(schema)s
"""
_START_MIGRATION = f"""
    SELECT set_config('synchronous_commit', 'on', true)
    WHERE current_setting('synchronous_commit') = 'off';
    UPDATE {SCHEMA_TABLE} SET migration = %(migration)s, backwards = %(backwards)s,
      detail = %(detail)s WHERE run_id = %(run)s AND schema = %(schema)s
"""
_FINISH_MIGRATION = f"""
    UPDATE {SCHEMA_TABLE} SET migration = NULL, detail = NULL
    WHERE lock_key = %(lock_key)s AND schema = %(schema)s AND migration = %(migration)s
"""
_FORGET_STEPS = f"""
    UPDATE {SCHEMA_TABLE} SET migration = NULL, detail = NULL
    WHERE lock_key = %(lock_key)s AND schema = %(schema)s AND detail IS NOT NULL
"""
_FORGET_JOURNAL = f"DELETE FROM {OPERATION_TABLE} WHERE lock_key = %(scope)s"
#: The non-atomic migration that an earlier run, or this one, has started and not finished.
_INTERRUPTED = f"""
    SELECT DISTINCT ON (migration) run_id, migration, backwards, detail FROM {SCHEMA_TABLE}
    WHERE lock_key = %(lock_key)s AND schema = %(schema)s AND detail IS NOT NULL
      AND migration IS NOT NULL
    ORDER BY migration, id DESC
"""


class _Recorder(PostgresRecorder):
    """Records the migrations of one schema that are not atomic, in the row of the schema."""

    def __init__(self, owner: PostgresSchemaSession, run: int) -> None:
        super().__init__(
            owner.session,
            owner.context.build,
            owner.context.settings.lock_key,
            owner.lock.verify,
            owner.context.deadline,
        )
        self.run_id = run
        self.lock_key = journal_scope(self.lock_key, owner.schema)
        self._owner = owner
        self._is_atomic = True

    def update(self, state: Any, message: str = "") -> None:
        self.state, self.message = state, message

    def start_step(
        self,
        name: str,
        *,
        backwards: bool,
        atomic: bool,
        detail: Any = None,
        kind: str = "migration",
    ) -> Fence:
        self.message = self.step = name
        self._is_atomic = atomic
        if not atomic:
            params = {
                "migration": name,
                "backwards": backwards,
                "detail": json.dumps(detail or {}),
            }
            self._owner.write(_START_MIGRATION, params)
        return Fence(self._owner.verify)

    def finish_step(self, outcome: str) -> None:
        if not self._is_atomic and outcome != "failed":
            self._owner.write(_FINISH_MIGRATION, {"migration": self.step})

    def forget_journal(self) -> None:
        """Delete the journal of the schema."""
        if self._has_journal():
            self._owner.write(_FORGET_JOURNAL, {"scope": self.lock_key})


class _InterruptedReader:
    """Reads what earlier runs have left unfinished in one schema."""

    def __init__(self, owner: PostgresSchemaSession) -> None:
        self._owner = owner

    def interrupted(self) -> dict[str, InterruptedStep]:
        rows = self._owner.write(_INTERRUPTED, {})
        return {
            name: InterruptedStep.from_row(run, name, backwards, detail)
            for run, name, backwards, detail in rows
        }

    def journal(self) -> list[JournalEntry]:
        from django_safe_init.backends.base.journal import READ_JOURNAL

        scope = self._owner.recorder.lock_key
        rows = self._owner.session.rows(READ_JOURNAL, {"lock_key": scope})
        return [JournalEntry.from_row(row) for row in rows]


class PostgresSchemaSession(BaseSchemaSession, PostgresRunSession):
    """The session for one schema, on the connections of a worker."""

    recorder: _Recorder

    def __init__(
        self, worker: PostgresSchemaWorker, schema: str, path: Sequence[str]
    ) -> None:
        # Not the base's: the worker's sessions and connections serve many schemas.
        self._worker = worker
        self.context = worker.context
        self.session = self._session = worker.session
        self.lock = worker.lock
        self._fenced = worker.fenced
        self._statement = None  # type: ignore[assignment]  # no heartbeat of its own
        self.connection = worker.connection
        self.schema = schema
        self.run = worker.run
        self.key = schema_key(schema)
        self.is_present = self._has_table = False
        #: The counters of the records that no work of this package changes.
        self._updated = self._deleted = 0
        self._counted_since = ""
        self._may_use = True
        #: The schema at first; None if this session has created it.
        self._oid: int | None = None
        self.path = ", ".join(map(quoted, path))
        self.lock_timeout = worker.lock_timeout()
        self.reader = _InterruptedReader(self)  # type: ignore[assignment]  # two of its methods
        self.recorder = _Recorder(self, worker.run)

    @property
    def _raw(self) -> psycopg.Connection[Any]:
        self.connection.ensure_connection()
        raw: psycopg.Connection[Any] = self.connection.connection
        return raw

    @property
    def _params(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "table": migration_table_name(),
            "lock_key": self.context.settings.lock_key or "",
            "run": self.run,
            "schema_key": self.key,
            "work_key": self.lock.work_key,
            "leader_key": self.lock.key,
            "leader": self.lock.leader_pid,
        }

    def write(self, statement: str, params: Mapping[str, Any]) -> list[Any]:
        """Execute a statement on the status tables."""
        try:
            return self.session.rows(statement, {**self._params, **params})
        except psycopg.Error as exc:
            raise session_error(exc) from exc

    def try_lock(self) -> bool:
        # Two statements: the second one sees what the last holder of the key has committed.
        query = f"SET LOCAL search_path = {SEARCH_PATH}; {_TRY_LOCK}; {_EXISTS}"
        with self.connection.wrap_database_errors:
            cursor = plain_cursor(self._raw).execute(query, self._params)
            [[(acquired,)], [found]] = results(cursor)
        self._note(*found)
        return bool(acquired)

    def _note(
        self,
        oid: int | None,
        has_table: bool,
        updated: int,
        deleted: int,
        counted_since: str,
        may_use: bool,
    ) -> None:
        self._oid, self.is_present = oid, oid is not None
        self._has_table, self._may_use = has_table, may_use
        self._updated, self._deleted = updated, deleted
        self._counted_since = counted_since

    def refresh(self) -> None:
        with self.connection.wrap_database_errors:
            [found] = pinned_rows(self._raw, _EXISTS, self._params)
        self._note(*found)

    def _take_key(self) -> bool:
        with self.connection.wrap_database_errors:
            [(acquired,)] = pinned_rows(self._raw, _TRY_LOCK, self._params)
        return bool(acquired)

    def classify(self, error: BaseException) -> ErrorKind:
        raw = self.connection.connection
        if raw is not None and raw.closed:
            return ErrorKind.LOST
        kind = super().classify(error)
        if kind is ErrorKind.OTHER and any(map(_is_collision, exception_chain(error))):
            return ErrorKind.TRANSIENT
        return kind

    def may_collide(self, error: BaseException) -> bool:
        if not self._worker.is_forked:
            return False
        chain = list(exception_chain(error))
        return any(isinstance(each, _COLLISIONS) for each in chain) or any(
            each.diag.schema_name != self.schema
            for each in chain
            if isinstance(each, psycopg.errors.UniqueViolation)
        )

    def was_refused(self, error: BaseException) -> bool:
        return any(isinstance(each, _REFUSALS) for each in exception_chain(error))

    def current_schema(self) -> str | None:
        # Django's cursor first receives what was sent for the migration.
        with self.connection.cursor() as cursor:
            cursor.execute(_CURRENT_SCHEMA, {"oid": self._oid})
            row = cursor.fetchone()
        return str(row[0]) if row else None

    def recover(self) -> None:
        self.lock.verify()
        self._fenced.reconnect()

    def unlock(self) -> None:
        raw = self.connection.connection
        if raw is None or raw.closed:
            return
        if self.ran_code:
            if not self._worker.is_unaltered_at_unlock(raw, self._params):
                self._fenced.reconnect()  # the keys are released with the session
            return
        with suppress(psycopg.Error):  # the session has ended, and the key with it
            pinned_rows(raw, _UNLOCK, self._params)

    def exists(self) -> bool:
        with self.connection.wrap_database_errors:
            [(oid, *_)] = pinned_rows(self._raw, _EXISTS, self._params)
        return oid is not None

    def create(self) -> None:
        self.verify()
        with self.connection.wrap_database_errors:
            plain_cursor(self._raw).execute(
                f"CREATE SCHEMA IF NOT EXISTS {quoted(self.schema)}"
            )
        self.is_present = True

    def recorded(self) -> Names | None:
        if not self._has_table:
            return None
        query = f"{self._limit} SELECT app, name FROM {self._table}"
        with self.connection.wrap_database_errors:
            rows = pinned_rows(self._raw, query)
        return {(app, name) for app, name in rows}

    @property
    def _table(self) -> str:
        return f"{quoted(self.schema)}.{quoted(migration_table_name())}"

    def forget_unfinished(self) -> None:
        self.write(_FORGET_STEPS, {})
        self.recorder.forget_journal()

    def create_table(self, statements: Sequence[str]) -> None:
        if not self._may_use:
            raise unusable_schema(self.session, self.schema)
        self.replay([Replay("the table of migrations", statements, ())])
        self._has_table = True

    def verify(self) -> None:
        params = {"pid": self._fenced.backend_pid}
        [(leads, pids, is_held)] = self.write(_VERIFY, params)
        self._fenced.verify(LockSnapshot(leads, frozenset(pids)))
        # Code of a migration may have closed the connection, or released all locks.
        if not is_held and not self._take_key():
            raise LockLost(
                f"The key of the schema {self.schema!r} was released, and another session has "
                "taken it."
            )

    def transaction(self, connection: BaseDatabaseWrapper) -> PostgresTransaction:
        return self._worker.transaction(connection)

    def replay(self, migrations: Sequence[Replay]) -> None:
        raw = self._raw
        try:
            with self.connection.wrap_database_errors:
                self._execute(raw, migrations)
        except BaseException:
            self._roll_back(raw)
            raise

    def _execute(
        self, raw: psycopg.Connection[Any], migrations: Sequence[Replay]
    ) -> None:
        """Execute the migrations, each after its checks, in one message.

        A server that loses its client goes on with the message. The checks of the next migration
        then end it, because the leader does not lead any more. A check that fails is a division by
        zero; the SQL of a migration may divide, too.
        """
        cursor = plain_cursor(raw)
        scripts = [self._script(each) for each in migrations]
        parts = []
        for each, script in zip(migrations, scripts, strict=True):
            query = (
                f"{self._begin} SELECT {_ALL} FROM ({self._checks(each.names)}) AS c"
            )
            parts += [cursor.mogrify(query, self._params), script]
        try:
            cursor.execute("\n;\n".join(parts))
        except psycopg.errors.DivisionByZero:
            self._roll_back(raw)
            if len(migrations) > 1:
                self.verify()
                raise SchemaChanged(
                    f"another program has recorded a migration in {self.schema!r} meanwhile, or "
                    "the SQL of a migration divides by zero"
                ) from None
            self._execute_after_checks(raw, migrations[0], scripts[0])

    def _execute_after_checks(
        self, raw: psycopg.Connection[Any], replay: Replay, script: str
    ) -> None:
        """Ask the checks in a message of their own, whose answer says what is wrong."""
        cursor, checks = plain_cursor(raw), self._checks(replay.names)
        found = cursor.execute(f"{self._begin} {checks}", self._params)
        [(is_fenced, recorded)] = results(found)[-1]
        if not is_fenced:
            self.verify()  # it takes again what was released, or raises
        if recorded:
            raise SchemaChanged(
                f"{replay.migration} is recorded in {self.schema!r} meanwhile"
            )
        try:
            cursor.execute(script)
        except psycopg.errors.DivisionByZero:
            self._roll_back(raw)
            if self._is_replaced(raw):
                raise SchemaChanged(
                    f"the schema {self.schema!r} was replaced or renamed meanwhile"
                ) from None
            raise

    def _is_replaced(self, raw: psycopg.Connection[Any]) -> bool:
        [(oid, *_)] = pinned_rows(raw, _EXISTS, self._params)
        return self._oid is not None and bool(oid != self._oid)

    @property
    def _limit(self) -> str:
        """The statement that limits the waiting for locks until the end of the transaction."""
        timeout = self.lock_timeout.timeout
        return "" if timeout is None else f"SET LOCAL lock_timeout = '{timeout}';"

    @property
    def _begin(self) -> str:
        path = "SET LOCAL search_path = pg_catalog;"
        return f"BEGIN; {ASYNCHRONOUS} {self._limit} {path}"

    def _checks(self, names: Collection[tuple[str, str]]) -> str:
        """Return the query for two checks: this process leads, and a name is recorded."""
        is_recorded = "false"
        if names:
            pairs = ", ".join("(%s, %s)" for _ in names)
            values = [part for name in names for part in name]
            condition = self.session.compose(f"(app, name) IN ({pairs})", values)
            is_recorded = f"EXISTS (SELECT FROM {self._table} WHERE {condition})"
        return (
            f"SELECT ({_FENCE}) AS fenced, {is_recorded.replace('%', '%%')} AS recorded"
        )

    def _script(self, replay: Replay) -> str:
        names = replay.names
        parts = [f"SET LOCAL search_path = {self.path}", *replay.statements]
        if names:
            rows = ", ".join("(%s, %s, pg_catalog.now())" for _ in names)
            values = [part for name in names for part in name]
            insert = (
                f"INSERT INTO {self._table.replace('%', '%%')} (app, name, applied)"
            )
            parts.append(self.session.compose(f"{insert} VALUES {rows}", values))
            parts.append(self._same_schema)
        parts.append("COMMIT")
        # A statement may end with a comment, which ends with its line.
        return "\n;\n".join(parts)

    @property
    def _same_schema(self) -> str:
        """The check that no other schema has got the name: a failed one is a division by zero."""
        if self._oid is None:
            return "SELECT"
        name = self.session.compose("%s", [quoted(self.schema)])
        return (
            f"SELECT 1 / CASE WHEN pg_catalog.to_regnamespace({name})::pg_catalog.oid"
            f" OPERATOR(pg_catalog.=) {self._oid} THEN 1 ELSE 0 END"
        )

    def _roll_back(self, raw: psycopg.Connection[Any]) -> None:
        with suppress(psycopg.Error):
            raw.rollback()

    def create_rows(self, rows: ReceiverRows) -> None:
        raw = self._raw
        parts = [
            plain_cursor(raw).mogrify(statement, params)
            for statement, params in (*_content_types(rows), *_permissions(rows))
        ]
        if raw.info.server_version >= 150000:
            parts.append(_FLUSH_STATISTICS)
        path = f"SET LOCAL search_path = {self.path}"
        script = ";\n".join(["BEGIN", path, *parts, "COMMIT"])
        try:
            with self.connection.wrap_database_errors:
                plain_cursor(raw).execute(script)
        except BaseException:
            self._roll_back(raw)
            raise

    def finish(self, result: SchemaResult) -> None:
        params = {
            **result._asdict(),
            "build": self.context.build.fingerprint,
            "migrations": SchemaReader.digest_of(self.context.build),
            "state": SchemaState.FAILED.value,
            # The next start reads records that others have changed during the work.
            "updated": self._updated,
            "deleted": self._deleted,
            "counted_since": self._counted_since,
        }
        if result.is_missing:
            params["state"] = SchemaState.MISSING.value
        if result.error is None and not result.is_missing:
            self.write(_DONE, params)
            return
        try:
            self.session.rows(ENDED, {**self._params, **params})
        except psycopg.DataError:  # the database's encoding lacks a character
            params["error"] = escape(result.error or "")
            self.write(ENDED, params)


def _is_collision(error: BaseException) -> bool:
    """Return True if another schema's migration has changed the same object at the same time.

    Such objects are outside of the schemas: functions, extensions, rights on shared tables.
    PostgreSQL reports the second change as a duplicate row of a catalog, or as an internal error.
    """
    if isinstance(error, psycopg.errors.UniqueViolation):
        return error.diag.schema_name == "pg_catalog"
    return isinstance(error, psycopg.errors.InternalError_)


def _content_types(rows: ReceiverRows) -> list[tuple[str, dict[str, Any]]]:
    if not rows.content_types:
        return []
    from django.contrib.contenttypes.models import ContentType

    labels, models = map(list, zip(*rows.content_types, strict=True))
    table = quoted(ContentType._meta.db_table)
    statement = f"""
        INSERT INTO {table} (app_label, model)
        SELECT w.app_label, w.model
        FROM unnest(%(labels)s::text[], %(models)s::text[])
          WITH ORDINALITY AS w (app_label, model, place)
        WHERE NOT EXISTS (SELECT FROM {table} t
          WHERE t.app_label = w.app_label AND t.model = w.model)
        ORDER BY w.place
        ON CONFLICT DO NOTHING
    """
    return [(statement, {"labels": labels, "models": models})]


def _permissions(rows: ReceiverRows) -> list[tuple[str, dict[str, Any]]]:
    if not rows.permissions:
        return []
    from django.contrib.auth.models import Permission
    from django.contrib.contenttypes.models import ContentType

    labels, models, codenames, names = map(list, zip(*rows.permissions, strict=True))
    table = quoted(Permission._meta.db_table)
    statement = f"""
        INSERT INTO {table} (name, content_type_id, codename)
        SELECT w.name, t.id, w.codename
        FROM unnest(%(labels)s::text[], %(models)s::text[], %(codenames)s::text[],
          %(names)s::text[]) WITH ORDINALITY AS w (app_label, model, codename, name, place)
        JOIN {quoted(ContentType._meta.db_table)} t
          ON t.app_label = w.app_label AND t.model = w.model
        WHERE NOT EXISTS (SELECT FROM {table} p
          WHERE p.content_type_id = t.id AND p.codename = w.codename)
        ORDER BY w.place
    """
    values = {
        "labels": labels,
        "models": models,
        "codenames": codenames,
        "names": names,
    }
    return [(statement, values)]


class PostgresSchemaWorker(BaseSchemaWorker):
    """The connections on which a process migrates schemas.

    The leader uses its own session. A forked process opens one, and sees on it if its leader
    still leads.
    """

    def __init__(
        self,
        context: Context,
        tenancy: Tenancy,
        lock: AdvisoryLock,
        run: int,
        make_connections: Callable[[AdvisoryLock], Any],
        make_lock_timeout: Callable[[Session, Any], Any],
        *,
        forked: bool,
    ) -> None:
        self.context = context
        self.tenancy = tenancy
        self.run = run
        self._own: Session | None = None
        #: True if other workers migrate other schemas at the same time.
        self.is_forked = forked
        if forked:
            self._own = connect(
                create_direct_wrapper(context.alias, context.direct),
                context.settings,
                context.deadline,
                "safe_init schemas",
                context.report,
            )
            self._own.patience = None
            self._own.apply_session_settings()
            lock = BorrowedLock(self._own, context.settings.lock_key, lock.leader_pid)
        self.lock = lock
        self.session = lock.session
        self.fenced = make_connections(lock)
        self._make_lock_timeout = make_lock_timeout
        self._transaction: PostgresTransaction | None = None
        self._opened = 0
        #: The state of each connection before its first schema.
        self._states: weakref.WeakKeyDictionary[psycopg.Connection[Any], str] = (
            weakref.WeakKeyDictionary()
        )

    def connections(self) -> AbstractContextManager[BaseDatabaseWrapper]:
        connections: AbstractContextManager[BaseDatabaseWrapper] = self.fenced
        return connections

    def lock_timeout(self) -> Any:
        """Return the limit on lock waits of a schema's migrations."""
        return self._make_lock_timeout(self.session, self.fenced)

    def transaction(self, connection: BaseDatabaseWrapper) -> PostgresTransaction:
        """Return the transactions of the connection, which change its schema editor once."""
        if self._transaction is None:
            timeout = self.lock_timeout()
            timeout.respect(connection)
            self._transaction = PostgresTransaction(connection, timeout.timeout)
        return self._transaction

    def is_unaltered_at_unlock(
        self, raw: psycopg.Connection[Any], params: Mapping[str, Any]
    ) -> bool:
        """Release the schema's key, and return True if the next schema may have the session.

        It may not if the session has settings, tables or locks that it had not at first.
        """
        if (
            not raw.autocommit
            or raw.info.transaction_status is not TransactionStatus.IDLE
        ):
            return False
        query = f"SET LOCAL search_path = {SEARCH_PATH}; {_SESSION_STATE}; {_UNLOCK}"
        try:
            [[(found,)], _] = results(plain_cursor(raw).execute(query, params))
        except psycopg.Error:
            return False
        return bool(self._states.get(raw) == found)

    def open(self, schema: str, kind: str) -> PostgresSchemaSession:
        self.connection = self.fenced.wrapper
        self._note_state()
        self._opened += 1
        if self._opened % _SCHEMAS_PER_CONNECTION == 0:
            self.fenced.reconnect()
        return PostgresSchemaSession(self, schema, self.tenancy.search_path(schema))

    def _note_state(self) -> None:
        """Note the state of a connection that is used for the first time."""
        self.connection.ensure_connection()
        raw = self.connection.connection
        if raw not in self._states:
            [(self._states[raw],)] = pinned_rows(raw, _SESSION_STATE)

    def close(self) -> None:
        if self._own is not None:
            self._own.close()
