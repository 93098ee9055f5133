"""Create and upgrade the status tables on PostgreSQL, under the leader lock."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from django.db import models
from django.db.backends.postgresql.schema import DatabaseSchemaEditor
from psycopg import sql

from django_safe_init.backends.base.recorder import MissingSchema
from django_safe_init.backends.base.schema import MODELS, TableSchema
from django_safe_init.backends.postgresql.connect import create_direct_wrapper
from django_safe_init.backends.postgresql.own_tables import check_own, repair_sequence
from django_safe_init.backends.postgresql.refused_rows import check_takes_rows
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.records import OPERATION_TABLE, RUN_TABLE, STEP_TABLE
from django_safe_init.core.schemas import SCHEMA_TABLE
from django_safe_init.core.text import one_line, with_commands
from django_safe_init.exceptions import (
    MissingPrivilege,
    ReadOnlyServer,
    UnsafeConnection,
)
from django_safe_init.models import Operation, TenantSchema


def ensure_tables(session: Session) -> None:
    """Create the status tables, or add the columns they lack.

    The sequences of their ids continue after the newest rows. Raises `UnsafeConnection` if
    another relation has a table's name, or a table takes no rows. Raises `MissingPrivilege` with
    the GRANT that the session's role needs, and `ReadOnlyServer` on a read-only database.
    """
    try:
        session.locate_tables()
        if session.tables.status_schema is None:
            raise _no_schema(session)
        for model in MODELS:
            check_own(session, model._meta.db_table)
            _ensure_table(session, model)
            check_takes_rows(session, model._meta.db_table)
            repair_sequence(session, model._meta.db_table)
    except psycopg.errors.ReadOnlySqlTransaction as exc:
        raise ReadOnlyServer(
            f"The database {session.alias!r} is read-only at the moment: "
            f"{exc.diag.message_primary}. Connect to the primary, or lift the restriction."
        ) from exc
    except psycopg.errors.InsufficientPrivilege as exc:
        raise missing_privilege(session, exc) from exc


#: Fails without the privileges that the migrating connection needs.
_WRITE_NOTHING = f"""
    INSERT INTO {OPERATION_TABLE} SELECT * FROM {OPERATION_TABLE} WHERE false;
    UPDATE {OPERATION_TABLE} SET part = part WHERE false;
    DELETE FROM {OPERATION_TABLE} WHERE false
"""


def ensure_journal(session: Session) -> None:
    """Create the table of the journal, or add the columns it lacks.

    Raises the errors of `ensure_tables`.
    """
    try:
        check_own(session, OPERATION_TABLE)
        _ensure_table(session, Operation)
        session.rows(_WRITE_NOTHING)
    except psycopg.errors.InsufficientPrivilege as exc:
        raise missing_privilege(session, exc, [OPERATION_TABLE]) from exc


def ensure_schemas(session: Session) -> None:
    """Create the table of the tenants' schemas, or add the columns it lacks.

    Raises the errors of `ensure_tables`.
    """
    try:
        check_own(session, SCHEMA_TABLE)
        _ensure_table(session, TenantSchema)
        check_takes_rows(session, SCHEMA_TABLE)
        repair_sequence(session, SCHEMA_TABLE)
    except psycopg.errors.InsufficientPrivilege as exc:
        raise missing_privilege(session, exc, [SCHEMA_TABLE]) from exc


def _no_schema(session: Session) -> MissingSchema:
    return MissingSchema(
        f"The role {_role(session)} has no schema to create tables in. "
        "Create one, or set the role's search_path."
    )


def missing_privilege(
    session: Session,
    error: psycopg.Error,
    tables: Sequence[str] = (RUN_TABLE, STEP_TABLE),
) -> MissingPrivilege:
    """Return the error for a role that may not create or write the tables, with the GRANT."""
    role = _role(session)
    owner = _owner(session, tables[-1])
    known = ""
    if owner is not None:
        grants = [_grant("SELECT, INSERT, UPDATE, DELETE", role, tables)]
        known = f", owner {owner}"
        if "must be owner" in str(error):
            grants = [
                f"ALTER TABLE {table} OWNER TO {_identifier(role)};" for table in tables
            ]
    else:
        schema = session.tables.status_schema
        grants = [f"GRANT CREATE ON SCHEMA {schema} TO {_identifier(role)};"]
    cause = f"{error.diag.message_primary}{known}"
    return MissingPrivilege(
        with_commands(
            f"The role {role} may not keep the status tables ({cause}). "
            "As their owner or as an administrator:",
            grants,
        )
    )


def unusable_schema(session: Session, schema: str) -> MissingPrivilege:
    """Return the error for a role that may not use a tenant's schema, with the GRANT."""
    role = _role(session)
    grant = (
        f"GRANT USAGE, CREATE ON SCHEMA {_identifier(schema)} TO {_identifier(role)};"
    )
    return MissingPrivilege(
        with_commands(
            f"The role {role} may not use the schema. As its owner or as an administrator:",
            [grant],
        )
    )


def grant_delete_hint(session: Session) -> str:
    """Return the sentence that tells how the session's role may delete old runs."""
    return f"To remove them, as the tables' owner: {_grant('DELETE', _role(session))}"


def _grant(
    rights: str, role: str, tables: Sequence[str] = (RUN_TABLE, STEP_TABLE)
) -> str:
    return f"GRANT {rights} ON {', '.join(tables)} TO {_identifier(role)};"


def _identifier(role: str) -> str:
    return sql.Identifier(role).as_string(None)


def _ensure_table(session: Session, model: type[models.Model]) -> None:
    present = _columns(session, model._meta.db_table)
    schema = TableSchema(create_direct_wrapper(session.alias), DatabaseSchemaEditor)
    if not present:
        _create(session, model, schema)
        return
    for name, definition in schema.columns(model).items():
        if name not in present:
            session.rows(
                f"ALTER TABLE {model._meta.db_table}"
                f" ADD COLUMN IF NOT EXISTS {name} {definition}"
            )


def _create(session: Session, model: type[models.Model], schema: TableSchema) -> None:
    columns = [f"{name} {kind}" for name, kind in schema.columns(model).items()]
    create = f"CREATE TABLE {model._meta.db_table} ({', '.join(columns)})"
    try:
        session.rows("; ".join([create, *schema.indexes(model)]))
    except (psycopg.errors.DuplicateTable, psycopg.errors.UniqueViolation) as exc:
        if not _columns(session, model._meta.db_table):
            raise UnsafeConnection(
                f"The table {model._meta.db_table} cannot be created: {one_line(exc)}. "
                "Rename or drop that relation."
            ) from exc
        # A project with another LOCK_KEY in this database created it first.
        _ensure_table(session, model)
    if not session.tables.has_runs:
        session.locate_tables()


def _columns(session: Session, table: str) -> set[str]:
    rows = session.rows(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%(table)s)"
        " AND attnum > 0 AND NOT attisdropped",
        {"table": session.tables.qualified(table)},
    )
    return {name for (name,) in rows}


def _owner(session: Session, table: str) -> str | None:
    rows = session.rows(
        "SELECT pg_get_userbyid(relowner)::text FROM pg_class"
        " WHERE oid = to_regclass(%(table)s)",
        {"table": session.tables.qualified(table)},
    )
    return rows[0][0] if rows else None


def _role(session: Session) -> str:
    [(role,)] = session.rows("SELECT current_user")
    return str(role)
