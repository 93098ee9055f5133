"""Tell this package's tables on PostgreSQL from others of the same name, and repair sequences."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg

from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.records import (
    MIGRATION_TABLE,
    OPERATION_TABLE,
    RUN_TABLE,
    STEP_TABLE,
)
from django_safe_init.core.schemas import SCHEMA_TABLE
from django_safe_init.core.text import printable
from django_safe_init.exceptions import UnsafeConnection

#: Returns the rows of a statement: `Session.rows`, or `Session.read`.
Query = Callable[[str, dict[str, Any]], list[Any]]

#: The columns without which a table cannot be upgraded. Every version has created them.
_REQUIRED = {
    RUN_TABLE: {
        "id": "bigint",
        "build": "text",
        "state": "text",
        "leader": "text",
        "version": "text",
        "started_at": "timestamp with time zone",
        "heartbeat_at": "timestamp with time zone",
    },
    STEP_TABLE: {
        "id": "bigint",
        "run_id": "bigint",
        "position": "integer",
        "kind": "text",
        "name": "text",
        "started_at": "timestamp with time zone",
    },
    OPERATION_TABLE: {
        "id": "bigint",
        "lock_key": "text",
        "migration": "text",
        "recorded": "boolean",
        "kind": "text",
        "position": "integer",
        "part": "integer",
        "state": "text",
        "fingerprint": "text",
        "detail": "text",
        "run_id": "bigint",
        "written_at": "timestamp with time zone",
    },
    SCHEMA_TABLE: {
        "id": "bigint",
        "lock_key": "text",
        "run_id": "bigint",
        "schema": "text",
        "state": "text",
        "is_current": "boolean",
        "build": "text",
        "migrations": "text",
        "receivers": "text",
        "table_oid": "bigint",
        "table_file": "bigint",
        "inserted": "bigint",
        "updated": "bigint",
        "deleted": "bigint",
        "counted_since": "text",
        "migration": "text",
        "backwards": "boolean",
        "detail": "jsonb",
        "error": "text",
        "started_at": "timestamp with time zone",
        "finished_at": "timestamp with time zone",
    },
}
#: The types of columns that an upgrade adds.
_ADDED = {
    RUN_TABLE: {
        "lock_key": "text",
        "backend_pid": "integer",
        "command": "text",
        "outcome": "text",
        "done": "integer",
        "total": "integer",
        "progress": "integer",
        "message": "text",
        "finished_at": "timestamp with time zone",
        "error": "text",
        "item_done": "bigint",
        "item_total": "bigint",
        "item_message": "text",
        "traceback": "text",
        "checks": "text",
        "release": "text",
        "findings": "text",
        "operation": "text",
        "schemas": "text",
    },
    STEP_TABLE: {
        "backwards": "boolean",
        "atomic": "boolean",
        "finished_at": "timestamp with time zone",
        "outcome": "text",
        "detail": "jsonb",
    },
    OPERATION_TABLE: {},
    SCHEMA_TABLE: {},
}
RELATION = """
    SELECT c.oid::regclass::text, c.relkind::text, pg_get_userbyid(c.relowner)::text,
      ARRAY(SELECT ARRAY[attname::text, format_type(atttypid, NULL)] FROM pg_attribute
            WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
    FROM pg_class c WHERE c.oid = to_regclass(%(table)s)
"""
#: The meaning of `relkind` (PostgreSQL manual, 53.11). Only `r` and `p` can be written.
_KINDS = {
    "r": "table",
    "p": "table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
    "S": "sequence",
    "i": "index",
    "I": "index",
    "c": "composite type",
}
#: The sequence that numbers the rows: of the identity, or of the column's default, which need not
#: own it. A default may also name its sequence as text.
SEQUENCE = r"""
    SELECT coalesce(
      (SELECT objid FROM pg_depend WHERE classid = 'pg_class'::regclass AND deptype = 'i'
       AND refclassid = 'pg_class'::regclass
       AND refobjid = a.attrelid AND refobjsubid = a.attnum),
      (SELECT s.oid FROM pg_depend p JOIN pg_class s ON s.oid = p.refobjid
       WHERE p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid
         AND p.refclassid = 'pg_class'::regclass AND s.relkind = 'S' LIMIT 1),
      to_regclass(substring(pg_get_expr(d.adbin, d.adrelid)
                            FROM 'nextval\(\(''(.*)''::text\)::regclass\)'))
    )::regclass AS sequence
    FROM pg_attribute a
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = to_regclass(%(table)s) AND a.attname = 'id'
"""
#: Logical replication and a restore of only the data leave a sequence behind the rows.
_REPAIR_SEQUENCE = """
    SELECT setval(sequence, newest)
    FROM (SELECT sequence, (SELECT max(id) FROM {table}) AS newest
          FROM ({sequence}) AS found) AS ids
    WHERE newest > coalesce(pg_sequence_last_value(sequence), 0)
"""


def difference(session: Session, query: Query, table: str) -> str | None:
    """Return the sentence that says why a relation is no status table; None if it is one.

    The sentence names the relation, its owner and the remedy. None also if no relation has the
    name.
    """
    for name, kind, owner, columns in _relation(session, query, table):
        known = _KINDS.get(kind, "relation")
        reason = _reason(table, kind, dict(columns))
        if reason is not None:
            return printable(
                f"The {known} {name} of the role {owner} is no table of this package: {reason}. "
                "Rename or drop it, or set a search_path without it."
            )
    return None


def _relation(session: Session, query: Query, table: str) -> list[Any]:
    return query(RELATION, {"table": session.tables.qualified(table)})


def _reason(table: str, kind: str, columns: dict[str, str]) -> str | None:
    if kind not in ("r", "p"):
        return f"it is a {_KINDS.get(kind, 'relation')}"
    for name in _REQUIRED[table]:
        if name not in columns:
            return f"it has no column {name}"
    for name, expected in {**_REQUIRED[table], **_ADDED[table]}.items():
        actual = columns.get(name, expected)
        if actual != expected:
            return f"its column {name} has the type {actual} instead of {expected}"
    return None


def check_own(session: Session, table: str) -> None:
    """Raise `UnsafeConnection` if a relation of the name is no status table."""
    sentence = difference(session, session.rows, table)
    if sentence is not None:
        raise UnsafeConnection(sentence)


def repair_sequence(session: Session, table: str) -> None:
    """Let the sequence of the table's ids continue after the newest row, under the leader lock.

    A role without the right to do so, and a sequence that cannot count so far, change nothing:
    `ids_do_not_rise` names the cause when a row cannot be inserted.
    """
    with suppress(
        psycopg.errors.InsufficientPrivilege, psycopg.errors.NumericValueOutOfRange
    ):
        params = {"table": session.tables.qualified(table)}
        session.rows(_REPAIR_SEQUENCE.format(table=table, sequence=SEQUENCE), params)


def owners(session: Session, query: Query) -> str:
    """Return the tables with their owners, for a person."""
    rows = [
        (name, owner)
        for table in (MIGRATION_TABLE, RUN_TABLE, STEP_TABLE)
        for name, _, owner, _ in _relation(session, query, table)
    ]
    return printable(", ".join(f"{name} (owner {owner})" for name, owner in rows))
