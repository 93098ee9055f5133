"""Read the status tables, `django_migrations` and the leader lock on PostgreSQL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from django_safe_init.backends.base.journal import READ_JOURNAL
from django_safe_init.backends.base.reader import TableReader
from django_safe_init.backends.postgresql.lock_keys import holders_sql, leader_key
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.backends.tenants import get_tenancy
from django_safe_init.conf import get_settings
from django_safe_init.core.build import Build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import (
    MIGRATION_TABLE,
    OPERATION_TABLE,
    RUN_TABLE,
    STEP_TABLE,
    JournalEntry,
    LeaderSnapshot,
    RunDetail,
    RunRow,
    Snapshot,
    TablesUnreadable,
    run_row,
    same_apps,
    step_row,
)
from django_safe_init.core.schemas import (
    NONE_BLOCKED,
    NONE_FAILED,
    SCHEMA_TABLE,
    BlockedTenants,
    FailedSchemas,
    SchemaSummary,
    TenantStatus,
)
from django_safe_init.core.step import DONE, completed_step, missing_steps
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import UnsafeConnection

if TYPE_CHECKING:
    from django_safe_init.backends.postgresql.schema_reader import SchemaReader
    from django_safe_init.core.records import Activity

logger = logging.getLogger("django_safe_init")

T = TypeVar("T")
#: The longest wait of a leader for a lock on the status tables.
_RETRY_SECONDS = 60.0


def _seconds(start: str, end: str) -> str:
    """Return the SQL of a duration; NULL if one of the times is infinite."""
    return (
        f"CASE WHEN isfinite({start}) AND isfinite({end})"
        f" THEN extract(epoch FROM {end} - {start}) END"
    )


_NOW = "clock_timestamp()"
_AGES = f"""
    (to_jsonb(r) - '{{traceback,findings}}'::text[]) || jsonb_build_object(
      'age_seconds', {_seconds("r.started_at", _NOW)},
      'silence_seconds', {_seconds("r.heartbeat_at", _NOW)},
      'duration_seconds', {_seconds("r.started_at", f"coalesce(r.finished_at, {_NOW})")})
"""
_LATEST = f"""
    SELECT {_AGES} FROM {RUN_TABLE} r WHERE lock_key = %(lock_key)s ORDER BY id DESC LIMIT 1
"""
#: The release of the newest run that ended. An older table has no such column.
_RELEASE = f"""
    SELECT to_jsonb(r) ->> 'release' FROM {RUN_TABLE} r
    WHERE lock_key = %(lock_key)s AND outcome IS NOT NULL ORDER BY id DESC LIMIT 1
"""
_RUNS = f"""
    ({_LATEST}),
    (SELECT {_AGES} FROM {RUN_TABLE} r WHERE lock_key = %(lock_key)s
     AND build = %(build)s ORDER BY id DESC LIMIT 1),
    EXISTS (SELECT FROM {RUN_TABLE} WHERE lock_key = %(lock_key)s
     AND build = %(build)s AND outcome = 'ready'),
    EXISTS (SELECT FROM {RUN_TABLE} WHERE lock_key = %(lock_key)s AND outcome = 'ready'
     AND id > (SELECT max(id) FROM {RUN_TABLE}
               WHERE lock_key = %(lock_key)s AND build = %(build)s)),
    ({_RELEASE})
"""
_NO_RUNS = "NULL::jsonb, NULL::jsonb, false, false, NULL::text"
#: One text, because the driver would quote each of hundreds of array elements.
_NAMES = r"string_to_array(%(names)s, E'\n')"
_MISSING_NAMES = f"""
    SELECT unnest({_NAMES}) EXCEPT SELECT app || '.' || name FROM django_migrations
"""
_MISSING = f"ARRAY({_MISSING_NAMES})"
_ALL_MISSING = _NAMES
_UNKNOWN = f"""
    ARRAY(SELECT app || '.' || name FROM django_migrations EXCEPT SELECT unnest({_NAMES}))
"""
_NONE_UNKNOWN = "'{}'::text[]"
#: The migrations are compared only if the run ended ready.
_FINISHED = f"""
    SELECT id, {{steps}} FROM (
      SELECT id, CASE WHEN outcome = 'ready' AND {{released}}
                 THEN NOT EXISTS ({_MISSING_NAMES}) END AS covered
      FROM {RUN_TABLE} r WHERE lock_key = %(lock_key)s AND build = %(build)s
      ORDER BY id DESC LIMIT 1) AS newest
    WHERE covered
"""
_RELEASED = f"""
    to_jsonb(r) ->> 'release' = %(release)s AND ({_RELEASE}) = %(release)s
"""
#: The completed steps among the build's steps, as arguments of `completed_step`.
_COMPLETED = f"""
    ARRAY(SELECT DISTINCT jsonb_build_array(s.name, to_jsonb(s) -> 'detail')
    FROM {STEP_TABLE} s JOIN {RUN_TABLE} r ON r.id = s.run_id
    WHERE r.lock_key = %(lock_key)s AND s.kind = 'step' AND s.outcome = '{DONE}'
      AND s.name = ANY(%(labels)s))
"""
#: No step was completed.
_NONE_COMPLETED = "'{}'::jsonb[]"
#: The role may not read which steps were completed.
_UNKNOWN_COMPLETED = "NULL::jsonb[]"
#: A step without an end lasts until its run ended.
_STEP_END = f"""
    coalesce(finished_at, (SELECT finished_at FROM {RUN_TABLE} WHERE id = run_id), {_NOW})
"""
_STEPS = f"""
    SELECT to_jsonb(s) || jsonb_build_object(
             'seconds', {_seconds("started_at", _STEP_END)})
    FROM {STEP_TABLE} s WHERE run_id = %(run)s ORDER BY position DESC, id DESC LIMIT %(limit)s
"""
_RUN_DETAIL = """
    SELECT {steps},
      (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
       AND application_name = 'safe_init waiting' AND pid <> %(leader)s),
      (SELECT usename FROM pg_stat_activity WHERE pid = %(leader)s)
"""
#: The seconds that each named step took when an earlier run completed it last.
_TIMED = f"""
    SELECT DISTINCT ON (name) {_seconds("s.started_at", "s.finished_at")} AS seconds
    FROM {STEP_TABLE} s JOIN {RUN_TABLE} r ON r.id = run_id
    WHERE name = ANY(%(wanted)s) AND run_id <> %(run)s AND lock_key = %(lock_key)s
      AND to_jsonb(s) @> '{{"outcome": "done", "backwards": false}}'
    ORDER BY name, s.id DESC
"""
_LEFT = f"""
    SELECT count(*), sum(seconds),
      (SELECT {_seconds("started_at", _NOW)} FROM {STEP_TABLE}
       WHERE run_id = %(run)s AND finished_at IS NULL ORDER BY id DESC LIMIT 1)
    FROM ({_TIMED}) AS timed
"""
_READABLE = """
    SELECT to_regclass(%(table)s) IS NOT NULL,
           coalesce(has_table_privilege(to_regclass(%(table)s), 'SELECT'), false)
"""


class PostgresReader(TableReader):
    """A reader of one database for one build, on one session."""

    def __init__(self, session: Session, build: Build, lock_key: str | None) -> None:
        super().__init__(session.alias, build, lock_key)
        self.session = session
        self.params: dict[str, Any] = {
            "build": self.build,
            "lock_key": self.lock_key,
            "leader_key": leader_key(lock_key),
            "labels": [step.label for step in self.steps],
        }
        self._runs_were_readable = False
        #: Limits the waits of a leader for locks on the status tables.
        self.deadline = Deadline(None)

    def finished_run(self, release: str | None = None) -> int | None:
        self.session.locate_missing_tables()
        tables = self.session.tables
        if None in map(tables.existing, (MIGRATION_TABLE, RUN_TABLE)):
            raise TablesUnreadable("The tables do not exist.")
        steps = _COMPLETED if self.steps else _NONE_COMPLETED
        released = "true" if release is None else _RELEASED
        rows = self.session.read(
            _FINISHED.format(steps=steps, released=released),
            # Only these are known without an import of migrations.
            {
                **self.params,
                "names": _joined(self.definition.migrations),
                "release": release,
            },
        )
        for run, completed in rows:
            if not self._missing_steps(completed) and not self._behind(remember=True):
                return int(run)
        return None

    def _behind(self, *, remember: bool = False) -> tuple[str, ...]:
        """Return the schemas of tenants that lack a migration, with one query if rows tell.

        With `remember`, rows are written for schemas that have all, so that the next start needs
        one query again.
        """
        if self._schemas is None:
            return ()
        self._schemas.session = self.session
        return self._schemas.behind(remember=remember)

    @cached_property
    def _schemas(self) -> SchemaReader | None:
        tenancy = get_tenancy(self.alias)
        if tenancy is None:
            return None
        # Imported here: most projects have no tenants.
        from django_safe_init.backends.postgresql.schema_reader import SchemaReader

        return SchemaReader(self.session, tenancy, self.definition, self.lock_key)

    def _missing_steps(self, completed: list[Any] | None) -> tuple[str, ...]:
        """Return the labels of the steps that are not completed; empty if that is unknown."""
        if completed is None:
            return ()
        return missing_steps(self.steps, [completed_step(*each) for each in completed])

    def read(self) -> Snapshot:
        """Return a full snapshot, without an error in the server's log for a missing table."""
        return self._read_again_if_dropped(self._read)

    def _read(self) -> Snapshot:
        snapshot = self._read_shared()
        if self._schemas is None:
            return snapshot
        self._schemas.session = self.session
        shared_suffices = get_settings().tenant_readiness == "shared"
        snapshot = snapshot._replace(shared_suffices=shared_suffices)
        own = snapshot.own
        if snapshot.missing or (own and own.open and not snapshot.ready):
            # Not ready, whatever the tenants' schemas have.
            return snapshot._replace(failed=self._failed_in(own))
        summary = self._schemas.summary(has_rows=self._has_schema_rows())
        return snapshot._replace(schemas=summary)

    def _failed_in(self, run: RunRow | None) -> FailedSchemas:
        """Return the schemas of tenants that have failed in the run, if it is open."""
        progress = run.schemas if run is not None and run.open else None
        if run is None or progress is None or not progress.failed:
            return NONE_FAILED
        assert self._schemas is not None  # the run has tenants
        return self._schemas.failed(run=run.id)

    def _has_schema_rows(self) -> bool:
        return self._access(SCHEMA_TABLE) == (True, True)

    def schemas(self) -> SchemaSummary | None:
        return self._about_tenants(
            lambda schemas: schemas.summary(has_rows=self._has_schema_rows()), None
        )

    def tenants(self) -> list[TenantStatus]:
        return self._about_tenants(
            lambda schemas: schemas.statuses(has_rows=self._has_schema_rows()), []
        )

    def lacking(self, schema: str) -> tuple[str, ...]:
        return self._about_tenants(lambda schemas: schemas.pending(schema), ())

    def blocked(self, behind: Sequence[str]) -> BlockedTenants:
        return self._about_tenants(
            lambda schemas: schemas.blocked(behind), NONE_BLOCKED
        )

    def _about_tenants(self, read: Callable[[SchemaReader], T], default: T) -> T:
        """Return what `read` returns; the default without tenants, or without their table."""
        if self._schemas is None:
            return default
        self.session.locate_missing_tables()
        self._schemas.session = self.session
        try:
            return read(self._schemas)
        except TablesUnreadable:  # the first run creates it
            return default

    def _read_shared(self) -> Snapshot:
        recorded = self._readable(MIGRATION_TABLE)
        return self._query(
            f"{_MISSING}, {_UNKNOWN}"
            if recorded
            else f"{_ALL_MISSING}, {_NONE_UNKNOWN}",
            _RUNS if self._runs_readable() else _NO_RUNS,
            self._completed_sql(),
        )

    def _completed_sql(self) -> str:
        if not self.steps:
            return _NONE_COMPLETED
        exists, readable = self._access(STEP_TABLE)
        if exists and readable and self._runs_readable() and self._is_own(STEP_TABLE):
            return _COMPLETED
        return _UNKNOWN_COMPLETED if exists else _NONE_COMPLETED

    def journal(self) -> list[JournalEntry]:
        return self._read_again_if_dropped(self._read_journal)

    def _read_journal(self) -> list[JournalEntry]:
        if not self._has_journal():
            return []
        rows = self.session.read(READ_JOURNAL, {"lock_key": self.lock_key})
        return [JournalEntry.from_row(row) for row in rows]

    def _has_journal(self) -> bool:
        exists, readable = self._access(OPERATION_TABLE)
        return exists and readable

    def on_primary(self) -> bool:
        [(is_standby,)] = self.session.read("SELECT pg_is_in_recovery()")
        return not is_standby

    def peek(self) -> LeaderSnapshot:
        return self._read_again_if_dropped(self._peek)

    def _peek(self) -> LeaderSnapshot:
        latest = f"({_LATEST})" if self._runs_readable() else "NULL::jsonb"
        [(run, leader_pid)] = self.session.read(
            f"SELECT {latest}, ({holders_sql('leader_key')} LIMIT 1)", self.params
        )
        return LeaderSnapshot(run_row(run), leader_pid)

    def leader_pid(self) -> int | None:
        [(pid,)] = self.session.read(
            f"SELECT ({holders_sql('leader_key')} LIMIT 1)", self.params
        )
        return None if pid is None else int(pid)

    def leader_session(self) -> str:
        from django_safe_init.backends.postgresql.lock_holders import (
            UNSEEN,
            key_holders,
        )

        found = key_holders(self.session.read, self.params["leader_key"])
        return found[0].as_leader if found else UNSEEN

    def table_lock_holders(self) -> str:
        from django_safe_init.backends.postgresql.lock_holders import (
            BLOCKS_READS,
            locked_tables,
            table_holders,
        )

        session = self.session
        return locked_tables(table_holders(session, session.read, BLOCKS_READS))

    def history(self, count: int) -> list[RunRow]:
        if count < 1:
            return []
        return self._read_runs("ORDER BY id DESC LIMIT %(count)s", {"count": count})

    def find_run(self, number: int) -> RunRow | None:
        runs = self._read_runs("AND id = %(number)s", {"number": number})
        return runs[0] if runs else None

    def _read_runs(self, which: str, params: dict[str, int]) -> list[RunRow]:
        """Return the runs that `which`, the end of the statement, selects."""
        self.session.locate_missing_tables()
        if not self._runs_readable():
            return []
        rows = self.session.read(
            f"SELECT {_AGES} FROM {RUN_TABLE} r WHERE lock_key = %(lock_key)s {which}",
            {**self.params, **params},
        )
        return [
            run for run in (run_row(values) for (values,) in rows) if run is not None
        ]

    def traceback(self, run: RunRow) -> str | None:
        # As JSON, because a table that an older version created lacks the column.
        rows = self.session.read(
            f"SELECT to_jsonb(r) ->> 'traceback' FROM {RUN_TABLE} r WHERE id = %(run)s",
            {"run": run.id},
        )
        return rows[0][0] if rows else None

    def activity(self) -> Activity:
        # Imported here to keep start-up fast.
        from django_safe_init.backends.postgresql.activity import leader_activity

        return leader_activity(self.session, self.lock_key or None)

    def run_detail(self, run: RunRow, steps: int | None) -> RunDetail:
        rows_sql = f"ARRAY({_STEPS})" if steps is not None else "'{}'::jsonb[]"
        [(rows, followers, role)] = self.session.read(
            _RUN_DETAIL.format(steps=rows_sql),
            {"run": run.id, "leader": run.backend_pid, "limit": steps},
        )
        return RunDetail(
            tuple(step_row(values) for values in reversed(rows)), role, followers
        )

    def seconds_left(self, run: RunRow, names: Sequence[str]) -> float | None:
        [(timed, seconds, elapsed)] = self.session.read(
            _LEFT, {**self.params, "run": run.id, "wanted": list(names)}
        )
        if timed < len(names):
            return None
        return max(0.0, float(seconds or 0) - float(elapsed or 0))

    def close(self) -> None:
        self.session.close()

    def _rows(self, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Return the rows without the limits of `Session.read`, because only a leader asks."""
        # Imported here to keep start-up fast.
        from django_safe_init.backends.postgresql.lock_holders import retry_while_locked

        session = self.session
        try:
            return retry_while_locked(
                lambda: session.rows(statement, params),
                session,
                self.deadline.clip(_RETRY_SECONDS),
            )
        except psycopg.errors.InsufficientPrivilege as exc:
            # Imported here to keep start-up fast.
            from django_safe_init.backends.postgresql.schema import missing_privilege

            raise missing_privilege(self.session, exc) from exc

    def _read_again_if_dropped(self, read: Callable[[], T]) -> T:
        """Read again if a table is gone: dropped, replaced by a restore, or lost in a crash.

        The status tables are written asynchronously, so a server that crashes may lose them.
        """
        self.session.locate_missing_tables()
        try:
            return read()
        except TablesUnreadable:
            self._runs_were_readable = False
            self.session.locate_tables()
        try:
            return read()
        except TablesUnreadable as exc:
            raise self._unreadable(exc) from exc

    def _unreadable(self, error: TablesUnreadable) -> UnsafeConnection:
        """Return the error for tables that stay unreadable."""
        # Imported here to keep start-up fast.
        from django_safe_init.backends.postgresql.own_tables import owners

        return UnsafeConnection(
            f"The records of the database {self.alias!r} cannot be read: {one_line(error)}. "
            f"Compare the columns, types and rights of {owners(self.session, self.session.read)}."
        )

    def _runs_readable(self) -> bool:
        self._runs_were_readable = self._runs_were_readable or (
            self._readable(RUN_TABLE) and self._is_own(RUN_TABLE)
        )
        return self._runs_were_readable

    def _is_own(self, table: str) -> bool:
        """Return False for another relation of the name; log that once."""
        # Imported here to keep start-up fast.
        from django_safe_init.backends.postgresql.own_tables import difference

        sentence = difference(self.session, self.session.read, table)
        if sentence is not None and sentence not in _logged:
            _logged.add(sentence)
            logger.warning("Runs are not read: %s", sentence)
        return sentence is None

    @cached_property
    def _required(self) -> str:
        return _joined(self.definition.required)

    def _query(self, migrations: str, runs: str, completed: str) -> Snapshot:
        [row] = self.session.read(
            f"SELECT {migrations}, {runs}, ({holders_sql('leader_key')} LIMIT 1),"
            f" {completed}",
            {**self.params, "names": self._required},
        )
        missing, unknown, latest, own, finished, superseded, release, pid, steps = row
        recorded = self.definition.required.difference(missing).union(unknown)
        pending = self.definition.pending(recorded)
        return Snapshot(
            (*pending, *self._missing_steps(steps)),
            run_row(latest),
            run_row(own),
            finished,
            superseded,
            pid,
            same_apps(set(unknown) - self.definition.known, pending),
            release,
        )

    def _readable(self, table: str) -> bool:
        exists, readable = self._access(table)
        if exists and not readable:
            _log_grant_once(self.session, table)
        return readable

    def _access(self, table: str) -> tuple[bool, bool]:
        """Return if the table exists, and if this role may read it."""
        name = self.session.tables.existing(table)
        if name is None:
            return False, False
        [(exists, readable)] = self.session.read(_READABLE, {"table": name})
        return exists, readable


def _joined(names: Iterable[str]) -> str:
    return "\n".join(sorted(names))


_named_grants: set[str] = set()
_logged: set[str] = set()


def _log_grant_once(session: Session, table: str) -> None:
    if table not in _named_grants:
        _named_grants.add(table)
        [(role,)] = session.read("SELECT quote_ident(current_user)")
        name = session.tables.qualified(table)
        logger.warning(
            "This role may not read %s, so nothing is known of it. "
            "As its owner: GRANT SELECT ON %s TO %s;",
            name,
            name,
            role,
        )
