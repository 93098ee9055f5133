"""Tell on PostgreSQL which tenants' schemas are up to date, in one query where rows say so."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from django.core.exceptions import EmptyResultSet
from django.db.models import QuerySet
from psycopg import sql

from django_safe_init.backends.postgresql.lock_keys import (
    HELD,
    remember_key,
    schema_key,
    work_key,
)
from django_safe_init.backends.postgresql.session import READ_LIMITS, Session, quoted
from django_safe_init.backends.tenants import Tenancy
from django_safe_init.core.build import Build
from django_safe_init.core.databases import migration_table_name
from django_safe_init.core.records import RUN_TABLE, TablesLocked, TablesUnreadable
from django_safe_init.core.schemas import (
    NONE_FAILED,
    SCHEMA_TABLE,
    BlockedTenants,
    FailedSchemas,
    FoundSchema,
    SchemaFailure,
    SchemaIdentity,
    SchemaState,
    SchemaSummary,
    TenantState,
    TenantStatus,
    digest,
)
from django_safe_init.core.text import one_line, stored_hint

logger = logging.getLogger("django_safe_init")

#: The schemas of one statement. Each costs two locks of the server's shared table until the
#: statement ends, and a server has 64 for each connection that it allows.
_SCHEMAS_PER_STATEMENT = 50
#: The failed schemas that a status names.
_NAMED_FAILURES = 20
#: Attempts to read the records, while schemas are dropped.
_ATTEMPTS = 5

#: After a crash the server counts again from zero, for the background writer at once. A reset of a
#: table or database has the time of the database.
COUNTED_SINCE = """
    (SELECT concat_ws('|', extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()),
       extract(epoch FROM pg_stat_get_db_stat_reset_time(oid)))
     FROM pg_database WHERE datname = current_database())
"""
_IDENTITY = f"""
    c.oid::bigint, c.relfilenode::bigint,
    coalesce(pg_stat_get_tuples_inserted(c.oid), 0),
    coalesce(pg_stat_get_tuples_updated(c.oid), 0),
    coalesce(pg_stat_get_tuples_deleted(c.oid), 0), {COUNTED_SINCE}
"""
_FOUND = f"""
    SELECT t.schema, t.kind, n.oid IS NOT NULL, {_IDENTITY}
    FROM tenant t
    LEFT JOIN pg_namespace n ON n.nspname = t.schema::name
    LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = %(table)s::name
      AND c.relkind IN ('r', 'p')
"""
_STALE = f"""
    SELECT found.* FROM ({_FOUND}) AS found
      (schema, kind, present, table_oid, table_file, inserted, updated, deleted,
       counted_since)
    WHERE NOT EXISTS (
      SELECT FROM {SCHEMA_TABLE} k
      WHERE k.is_current AND k.lock_key = %(lock_key)s AND k.schema = found.schema
        AND k.migrations = %(migrations)s
        AND (%(receivers)s::text IS NULL OR k.receivers = %(receivers)s)
        AND k.table_oid = found.table_oid AND k.table_file = found.table_file
        AND k.inserted = found.inserted AND k.updated = found.updated
        AND k.deleted = found.deleted AND k.counted_since = found.counted_since)
"""
_RECORDS = """
    SELECT {schema}::text, md5(string_agg(app || '.' || name, E'\\n'
      ORDER BY app COLLATE "C", name COLLATE "C")) FROM {table}
"""


_ROWS = """
    unnest(%(schemas)s::text[], %(tables)s::bigint[], %(files)s::bigint[],
           %(inserted)s::bigint[], %(updated)s::bigint[], %(deleted)s::bigint[],
           %(counted_since)s::text[])
      AS f (schema, table_oid, table_file, inserted, updated, deleted, counted_since)
"""
#: Rows for schemas that were found to have all migrations. `{condition}` is true, or false for a
#: process that must not write.
_REMEMBER = f"""
    UPDATE {SCHEMA_TABLE} AS k SET build = %(build)s, migrations = %(migrations)s,
      receivers = coalesce(%(receivers)s::text, CASE WHEN k.migrations = %(migrations)s
                                                THEN k.receivers ELSE '' END),
      table_oid = f.table_oid, table_file = f.table_file,
      inserted = f.inserted, updated = f.updated, deleted = f.deleted,
      counted_since = f.counted_since
    FROM {_ROWS}
    WHERE {{condition}} AND k.schema = f.schema AND k.is_current AND k.lock_key = %(lock_key)s;
    INSERT INTO {SCHEMA_TABLE} (lock_key, schema, state, is_current, build, migrations,
      receivers, table_oid, table_file, inserted, updated, deleted, counted_since,
      finished_at)
    SELECT %(lock_key)s, f.schema, '{SchemaState.DONE.value}', true, %(build)s,
      %(migrations)s, coalesce(%(receivers)s::text, ''), f.table_oid, f.table_file, f.inserted,
      f.updated, f.deleted, f.counted_since, clock_timestamp()
    FROM {_ROWS}
    WHERE {{condition}} AND NOT EXISTS (SELECT FROM {SCHEMA_TABLE} k
      WHERE k.schema = f.schema AND k.is_current AND k.lock_key = %(lock_key)s)
"""
REMEMBER = _REMEMBER.format(condition="true")
_MAY = "current_setting('safe_init.may_remember') = 'true'"
#: Of many processes that have found the same, one writes.
TRY_TO_REMEMBER = f"""
    SELECT set_config('safe_init.may_remember',
      pg_try_advisory_xact_lock(%(remember_key)s)::text, true);
    {_REMEMBER.format(condition=_MAY)}
"""
#: The newest rows of schemas that runs of this build, or one run of it, have finished.
_FINISHED = f"""
    SELECT DISTINCT ON (s.schema) s.schema, s.state, s.error
    FROM {SCHEMA_TABLE} s JOIN {RUN_TABLE} r ON r.id = s.run_id
    WHERE r.lock_key = %(lock_key)s AND r.build = %(build)s
      AND s.state <> '{SchemaState.PENDING.value}'
      AND (%(run)s::bigint IS NULL OR r.id = %(run)s)
    ORDER BY s.schema, s.id DESC
"""
_FAILED = f"""
    SELECT schema, error, count(*) OVER () FROM ({_FINISHED}) AS newest
    WHERE state = '{SchemaState.FAILED.value}'
      AND (%(among)s::text[] IS NULL OR schema = ANY(%(among)s))
    ORDER BY schema LIMIT {_NAMED_FAILURES}
"""
#: The newest row of each schema that any run has finished, and if the run was of this build.
_NEWEST = f"""
    SELECT DISTINCT ON (s.schema) s.schema, s.state, s.run_id,
      extract(epoch FROM s.finished_at - s.started_at)::float8, s.error,
      coalesce(r.build = %(build)s, false)
    FROM {SCHEMA_TABLE} s LEFT JOIN {RUN_TABLE} r ON r.id = s.run_id
    WHERE s.lock_key = %(lock_key)s AND s.state <> '{SchemaState.PENDING.value}'
    ORDER BY s.schema, s.id DESC
"""
#: The keys of schemas that a session without the work key holds: it creates their tenants.
_CREATED = f"""
    SELECT key FROM {HELD} WHERE key = ANY(%(keys)s) AND pid NOT IN
      (SELECT pid FROM {HELD} WHERE key = %(work_key)s)
"""


class _Known(NamedTuple):
    """A table of migrations as this process has read it."""

    identity: SchemaIdentity
    is_complete: bool


#: The tables that this process has read, by alias and build, and by schema.
_known: dict[tuple[str, str], dict[str, _Known]] = {}


def remembered(
    params: Mapping[str, Any],
    build: Build,
    found: Sequence[FoundSchema],
    receivers: str | None,
) -> dict[str, Any]:
    """Return the parameters of `REMEMBER`."""
    identities = [each.identity for each in found]
    return {
        **params,
        "build": build.fingerprint,
        "receivers": receivers,
        "schemas": [each.schema for each in found],
        "tables": [each.table for each in identities],
        "files": [each.file for each in identities],
        "inserted": [each.inserted for each in identities],
        "updated": [each.updated for each in identities],
        "deleted": [each.deleted for each in identities],
        "counted_since": [each.counted_since for each in identities],
    }


class SchemaReader:
    """Reads the tenants' schemas of one database for one build."""

    def __init__(
        self, session: Session, tenancy: Tenancy, build: Build, lock_key: str | None
    ) -> None:
        self.session = session
        self.tenancy = tenancy
        self.build = build
        self.lock_key = lock_key or ""
        self.params: dict[str, Any] = {
            "lock_key": self.lock_key,
            "build": build.fingerprint,
            "migrations": self.digest_of(build),
            "table": migration_table_name(),
        }

    @staticmethod
    def digest_of(build: Build) -> str:
        """Return the digest of the build's migrations, as the rows have it."""
        return digest(build.migrations)

    def all(self) -> list[FoundSchema]:
        """Return all schemas of tenants."""
        return self._find(_FOUND)

    def stale(self, receivers: str | None = None) -> list[FoundSchema]:
        """Return the schemas that no row calls up to date for this build.

        The table of the rows must exist.
        """
        return self._find(_STALE, {"receivers": receivers})

    def summary(self, *, has_rows: bool) -> SchemaSummary:
        """Return the number of schemas, and the names of the schemas that lack a migration.

        Without rows, all records are read.
        """
        found = self.all()
        lacking = self._lacking(self.stale() if has_rows else found)
        behind = tuple(sorted(each.schema for each in lacking))
        failed = self.failed(among=behind) if has_rows and behind else NONE_FAILED
        return SchemaSummary(sum(each.is_due for each in found), behind, failed)

    def failed(
        self, *, run: int | None = None, among: Sequence[str] | None = None
    ) -> FailedSchemas:
        """Return the schemas whose last attempt in this build, or in one run of it, failed."""
        rows = self.session.read(
            _FAILED,
            {
                **self.params,
                "run": run,
                "among": None if among is None else list(among),
            },
        )
        first = tuple(
            SchemaFailure(schema, stored_hint(error or "")) for schema, error, _ in rows
        )
        return FailedSchemas(rows[0][2] if rows else 0, first)

    def statuses(self, *, has_rows: bool) -> list[TenantStatus]:
        """Return the status of each tenant's schema, by name."""
        found = sorted(self.all(), key=lambda each: each.schema)
        lacking = self._lacking(self.stale() if has_rows else found)
        behind = {each.schema for each in lacking}
        rows = self.session.read(_NEWEST, self.params) if has_rows else []
        newest = {schema: rest for schema, *rest in rows}
        return [
            _tenant_status(each, each.schema in behind, newest.get(each.schema))
            for each in found
        ]

    def pending(self, schema: str) -> tuple[str, ...]:
        """Return the migrations of the build that the schema lacks; none if it is missing."""
        return self.build.pending(self.records(schema))

    def blocked(self, behind: Sequence[str]) -> BlockedTenants:
        """Return which of the schemas have requests that wait, with their host names.

        A tenant that is being created is behind for a moment, and has no requests to hold back.
        """
        keys = {schema_key(name): name for name in behind}
        rows = self.session.read(
            _CREATED, {"keys": list(keys), "work_key": work_key(self.lock_key)}
        )
        names = frozenset(keys.values()).difference(keys[key] for (key,) in rows)
        return BlockedTenants(names, self._hosts(names))

    def _hosts(self, names: Collection[str]) -> dict[str, str]:
        """Return the schemas of the host names by which the package finds these tenants."""
        static = self.tenancy.static_hosts
        hosts = {host: name for host, name in static.items() if name in names}
        query = self.tenancy.hosts
        statement = "" if query is None else self._compiled(query)
        if statement and names:
            rows = self.session.read(
                f"{self._path}SELECT host, name FROM ({_escaped(statement)}) AS row (host, name)"
                " WHERE name = ANY(%(names)s)",
                {"names": list(names)},
            )
            hosts.update((host, name) for host, name in rows if host not in static)
        return hosts

    def behind(self, *, remember: bool = False) -> tuple[str, ...]:
        """Return the schemas that lack a migration. The table of the rows must exist."""
        found = self.stale()
        behind = self._lacking(found)
        if remember:
            names = {each.schema for each in behind}
            self._try_to_remember(
                [each for each in found if each.is_due and each.schema not in names]
            )
        return tuple(sorted(each.schema for each in behind))

    def _lacking(self, found: Sequence[FoundSchema]) -> list[FoundSchema]:
        """Return the found schemas that lack a migration of the build.

        What this process has read of a table is true until the table changes.
        """
        key = self.session.alias, self.params["migrations"]
        known = _known.setdefault(key, {})
        due = [each for each in found if each.is_due]
        unknown = [
            each
            for each in due
            if each.schema not in known or known[each.schema].identity != each.identity
        ]
        complete = self.complete(unknown)
        for each in unknown:
            known[each.schema] = _Known(each.identity, each.schema in complete)
        return [each for each in due if not known[each.schema].is_complete]

    def _try_to_remember(self, found: Sequence[FoundSchema]) -> None:
        """Write rows for the schemas, unless another process does, or this one may not."""
        if not found:
            return
        params = {
            **remembered(self.params, self.build, found, None),
            "remember_key": remember_key(self.lock_key),
        }
        try:
            self.session.rows(f"{READ_LIMITS}{TRY_TO_REMEMBER}", params)
        except psycopg.Error as exc:
            logger.debug("The schemas' rows are not written: %s", one_line(exc))

    def _find(
        self, query: str, params: dict[str, Any] | None = None
    ) -> list[FoundSchema]:
        tenants = self._tenants()
        if not tenants:
            return []
        start = f"{self._path}WITH tenant (schema, kind) AS ({_escaped(tenants)}) "
        rows = self.session.read(start + query, {**self.params, **(params or {})})
        return [
            FoundSchema(
                schema,
                kind,
                exists,
                SchemaIdentity(*identity),
                self.tenancy.creates_schemas,
            )
            for schema, kind, exists, *identity in rows
        ]

    @property
    def _path(self) -> str:
        """The statement for a query of Django's, with names that have no schema."""
        path = f"pg_catalog, {quoted(self.tenancy.shared_schema)}"
        return f"SET LOCAL search_path = {_escaped(path)}; "

    def _tenants(self) -> str:
        """Return the query for the schema and the kind of each tenant; empty without any."""
        parts = []
        if static := self.tenancy.static_tenants:
            rows = ", ".join(
                f"({_literal(name)}, {_literal(kind)})" for name, kind in static
            )
            parts.append(f"SELECT * FROM (VALUES {rows}) AS static (schema, kind)")
        if dynamic := self._dynamic_tenants():
            fields = "name" if len(self.tenancy.fields) == 1 else "name, kind"
            kind = "''" if fields == "name" else "coalesce(kind::text, '')"
            parts.append(
                f"SELECT name::text, {kind} FROM ({dynamic}) AS row ({fields})"
            )
        return " UNION ".join(parts)

    def _dynamic_tenants(self) -> str:
        tenants = self.tenancy.tenants
        if tenants is None:
            return ""
        return self._compiled(tenants.order_by().values_list(*self.tenancy.fields))

    def _compiled(self, query: QuerySet[Any]) -> str:
        """Return the query with its values; empty if it finds nothing whatever the tables have."""
        try:
            compiler = query.query.get_compiler(self.tenancy.alias)
            statement, params = compiler.as_sql()
        except EmptyResultSet:
            return ""
        return self.session.compose(statement, params)

    def complete(self, found: Sequence[FoundSchema]) -> set[str]:
        """Return the schemas in which every migration of the build is recorded."""
        digests = self.record_digests(
            [each.schema for each in found if each.identity.table is not None]
        )
        groups: dict[str, str] = {}
        for schema, group in digests.items():
            groups.setdefault(group, schema)
        satisfied = {
            group
            for group, schema in groups.items()
            if not self.build.pending(self.records(schema))
        }
        return {schema for schema, group in digests.items() if group in satisfied}

    def records(self, schema: str) -> frozenset[str]:
        """Return the names of the migrations that are recorded in the schema."""
        try:
            rows = self.session.read(
                f"SELECT app || '.' || name FROM {self.table(schema)}"
            )
        except (TablesLocked, TablesUnreadable):  # the schema may have been dropped
            return frozenset()
        return frozenset(name for (name,) in rows)

    def record_digests(self, schemas: Sequence[str]) -> dict[str, str]:
        """Return a digest of the recorded names of each schema that can be read."""
        found: dict[str, str] = {}
        for chunk in _chunks(schemas):
            found.update(self._digests(chunk))
        return found

    def _digests(self, schemas: Sequence[str]) -> dict[str, str]:
        for _ in range(_ATTEMPTS):
            if not schemas:
                return {}
            try:
                return self._read_digests(schemas)
            except TablesUnreadable:
                schemas = self._readable(schemas)
            except TablesLocked:
                break
        # Single schemas, of which each may be locked, or have been dropped.
        digests: dict[str, str] = {}
        for schema in schemas:
            try:
                digests.update(self._read_digests([schema]))
            except (TablesLocked, TablesUnreadable):
                continue
        return digests

    def _read_digests(self, schemas: Sequence[str]) -> dict[str, str]:
        statement = " UNION ALL ".join(
            _RECORDS.format(schema=_literal(schema), table=self.table(schema))
            for schema in schemas
        )
        return {schema: group or "" for schema, group in self.session.read(statement)}

    def _readable(self, schemas: Sequence[str]) -> list[str]:
        """Return the schemas whose table exists, and that this role may read."""
        rows = self.session.read(
            """
            SELECT n.nspname FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
            WHERE n.nspname = ANY(%(schemas)s) AND c.relname = %(table)s::name
              AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
            """,
            {**self.params, "schemas": list(schemas)},
        )
        return [name for (name,) in rows]

    def table(self, schema: str) -> str:
        """Return the qualified name of the table of migrations in the schema."""
        return f"{quoted(schema)}.{quoted(migration_table_name())}"


def _tenant_status(
    found: FoundSchema, is_behind: bool, row: Sequence[Any] | None
) -> TenantStatus:
    """Return the status; `row` has the columns of `_NEWEST` after the schema."""
    state, run, seconds, error, is_own = row or (None, None, None, None, False)
    if not found.is_due:
        return TenantStatus(found.schema, TenantState.MISSING, run, seconds)
    if not is_behind:
        return TenantStatus(found.schema, TenantState.UP_TO_DATE, run, seconds)
    if state != SchemaState.FAILED.value or not is_own:
        return TenantStatus(found.schema, TenantState.BEHIND, run, seconds)
    return TenantStatus(
        found.schema, TenantState.FAILED, run, seconds, stored_hint(error or "")
    )


def _escaped(statement: str) -> str:
    """Return the statement for a message that has parameters."""
    return statement.replace("%", "%%")


def _literal(text: str) -> str:
    return sql.Literal(text).as_string(None)


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), _SCHEMAS_PER_STATEMENT):
        yield items[start : start + _SCHEMAS_PER_STATEMENT]
