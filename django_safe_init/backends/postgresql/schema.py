"""The two status tables on PostgreSQL: created and upgraded under the leader lock."""

from __future__ import annotations

import psycopg
from psycopg import sql

from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.columns import COLUMNS, INDEXES, RUN_TABLE, STEP_TABLE
from django_safe_init.exceptions import MissingPrivilege, UnsafeConnection


def ensure_tables(session: Session) -> None:
    """Create the tables, or add the columns they lack.

    Raises `MissingPrivilege` with the GRANT if the session's role may not.
    """
    try:
        for table in COLUMNS:
            _ensure_table(session, table)
    except psycopg.errors.InvalidSchemaName as exc:
        raise MissingPrivilege(
            f"The role {_role(session)} has no schema to create tables in. "
            "Create one, or set the role's search_path."
        ) from exc
    except psycopg.errors.ReadOnlySqlTransaction as exc:
        raise UnsafeConnection(
            f"The database {session.alias!r} is read-only at the moment: "
            f"{exc.diag.message_primary}. Connect to the primary, or lift the restriction."
        ) from exc
    except psycopg.errors.InsufficientPrivilege as exc:
        raise missing_privilege(session, exc) from exc


def missing_privilege(session: Session, error: psycopg.Error) -> MissingPrivilege:
    """The error for a role that may not create or write the tables, with the GRANT."""
    role = _role(session)
    if _columns(session, STEP_TABLE):
        grant = _grant("SELECT, INSERT, UPDATE, DELETE", role)
    else:
        [(schema,)] = session.rows("SELECT quote_ident(current_schema())")
        grant = f"GRANT CREATE ON SCHEMA {schema} TO {_identifier(role)};"
    return MissingPrivilege(
        f"The role {role} may not keep the status tables ({error.diag.message_primary}). "
        f"As their owner or as an administrator: {grant}"
    )


def may_delete(session: Session) -> str:
    """What lets the session's role remove old runs, in a sentence."""
    return f"To remove them, as the tables' owner: {_grant('DELETE', _role(session))}"


def _grant(rights: str, role: str) -> str:
    return f"GRANT {rights} ON {RUN_TABLE}, {STEP_TABLE} TO {_identifier(role)};"


def _identifier(role: str) -> str:
    return sql.Identifier(role).as_string(None)


def _ensure_table(session: Session, table: str) -> None:
    columns = COLUMNS[table]
    present = _columns(session, table)
    if not present:
        _create(session, table)
    for name in columns.keys() - present if present else ():
        session.rows(
            f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {name} {columns[name]}"
        )


def _create(session: Session, table: str) -> None:
    body = ", ".join(f"{name} {kind}" for name, kind in COLUMNS[table].items())
    try:
        session.rows(f"CREATE TABLE {table} ({body}); {INDEXES.get(table, '')}")
    except (psycopg.errors.DuplicateTable, psycopg.errors.UniqueViolation):
        # A project with another LOCK_KEY in this database was faster: look again.
        _ensure_table(session, table)


def _columns(session: Session, table: str) -> set[str]:
    rows = session.rows(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%(table)s)"
        " AND attnum > 0 AND NOT attisdropped",
        {"table": table},
    )
    return {name for (name,) in rows}


def _role(session: Session) -> str:
    [(role,)] = session.rows("SELECT current_user")
    return str(role)
