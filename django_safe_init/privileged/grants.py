"""Grant a serving role its privileges: rows of the application, read access to the records."""

from __future__ import annotations

from typing import Any

from django_safe_init.backends import get_features
from django_safe_init.core.databases import migration_table_name
from django_safe_init.core.records import OPERATION_TABLE, RUN_TABLE, STEP_TABLE
from django_safe_init.core.schemas import SCHEMA_TABLE
from django_safe_init.core.step import PrivilegedContext, StepContext
from django_safe_init.core.step_registry import init_step
from django_safe_init.privileged.registration import (
    calling_module,
    execute,
    query,
    register,
    step_name,
)

_DML = "SELECT, INSERT, UPDATE, DELETE"
_SEQUENCES = "USAGE, SELECT"
_DEFAULTS = "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT"

#: The default privileges that the role does not have.
_MISSING_DEFAULTS = """
    SELECT wanted.kind, wanted.privilege
    FROM (VALUES ('r', 'SELECT'), ('r', 'INSERT'), ('r', 'UPDATE'), ('r', 'DELETE'),
                 ('S', 'USAGE'), ('S', 'SELECT')) AS wanted(kind, privilege)
    WHERE NOT EXISTS (
      SELECT FROM pg_default_acl d, aclexplode(d.defaclacl) AS granted
      WHERE d.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = %(owner)s)
        AND d.defaclnamespace = to_regnamespace(quote_ident(%(schema)s))
        AND d.defaclobjtype = wanted.kind::"char"
        AND granted.grantee = (SELECT oid FROM pg_roles WHERE rolname = %(role)s)
        AND granted.privilege_type = wanted.privilege)
"""
#: The owner's relations that the role cannot fully use; the second column is true for a sequence.
_MISSING_GRANTS = """
    SELECT c.relname, c.relkind = 'S' FROM pg_class c
    WHERE c.relnamespace = to_regnamespace(quote_ident(%(schema)s))
      AND pg_get_userbyid(c.relowner) = %(owner)s
      AND c.relname <> ALL(%(records)s)
      AND CASE
        WHEN c.relkind = 'S' THEN
          NOT (has_sequence_privilege(%(role)s, c.oid, 'USAGE')
               AND has_sequence_privilege(%(role)s, c.oid, 'SELECT'))
        WHEN c.relkind IN ('r', 'p', 'v', 'm', 'f') THEN
          NOT (has_table_privilege(%(role)s, c.oid, 'SELECT')
               AND has_table_privilege(%(role)s, c.oid, 'INSERT')
               AND has_table_privilege(%(role)s, c.oid, 'UPDATE')
               AND has_table_privilege(%(role)s, c.oid, 'DELETE'))
        ELSE false END
    ORDER BY 1
"""
#: The record tables; below, those the role cannot read, and those it can write in any way.
_RECORD_TABLES = """
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = to_regnamespace(quote_ident(%(schema)s))
      AND c.relname = ANY(%(records)s) AND c.relkind IN ('r', 'p')
"""
_UNREADABLE = f"{_RECORD_TABLES} AND NOT has_table_privilege(%(role)s, c.oid, 'SELECT')"
_WRITABLE = f"""
    {_RECORD_TABLES}
    AND has_table_privilege(%(role)s, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
"""
_CAN_CONNECT = """
    SELECT has_database_privilege(%(role)s, current_database(), 'CONNECT')
           AND has_schema_privilege(%(role)s, %(schema)s, 'USAGE')
"""
_BOTH_EXIST = """
    SELECT count(*) = 2 FROM pg_roles WHERE rolname IN (%(role)s, %(owner)s)
"""


def _record_tables() -> list[str]:
    """Return the tables that the serving role may only read."""
    return [
        migration_table_name(),
        OPERATION_TABLE,
        RUN_TABLE,
        SCHEMA_TABLE,
        STEP_TABLE,
    ]


def grant_application(role: str, *, owner: str, schema: str = "public") -> None:
    """Grant a serving role the least privileges in the database that is initialized.

    The role may connect, use the schema, and read and write rows of all tables of `owner`,
    including future tables. Tables of other owners are not changed. The role may read
    `django_migrations` and the two status tables, but not write them. A step that the owner
    runs after the migrations revokes write access to them.

    The role gets no right to create anything. Rights that the schema grants to PUBLIC, as
    `public` did before PostgreSQL 15, stay.
    """
    names = {"role": role, "owner": owner, "schema": schema}
    params = {**names, "records": _record_tables()}

    def ensure(context: PrivilegedContext) -> None:
        target = context.target()
        [(database,)] = query(target, "SELECT current_database()")
        with target.connection.transaction():  # other sessions see all grants or none
            for statement in (
                "GRANT CONNECT ON DATABASE {database} TO {role}",
                "GRANT USAGE ON SCHEMA {schema} TO {role}",
                "GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner}",
                f"{_DEFAULTS} {_DML} ON TABLES TO {{role}}",
                f"{_DEFAULTS} {_SEQUENCES} ON SEQUENCES TO {{role}}",
            ):
                execute(target, statement, database=database, **names)
            _grant_missing(target, params)
            _restrict(target, params)

    def done(context: PrivilegedContext) -> bool:
        target = context.target()
        if not query(target, _BOTH_EXIST, **params)[0][0]:
            return False
        # Writable records do not count: they are writable until the leader runs its step.
        missing = (_MISSING_DEFAULTS, _MISSING_GRANTS, _UNREADABLE)
        return query(target, _CAN_CONNECT, **params)[0][0] and not any(
            query(target, each, **params) for each in missing
        )

    # A role in several schemas needs a step name for each.
    suffix = role if schema == "public" else f"{role}_{schema}"
    register(f"grants_{suffix}", ensure, done)
    _register_restriction(f"records_of_{suffix}", params)


def _register_restriction(name: str, params: dict[str, Any]) -> None:
    """Register the leader's step that revokes write access to the record tables.

    PostgreSQL grants the default privileges, which include writing, when it creates a table.
    """

    def restrict(context: StepContext) -> None:
        if get_features(context.alias).supports_privileged_steps:
            _restrict(context.connection, params)

    restrict.__module__ = calling_module()
    init_step(restrict, name=step_name(name), run="always")


def _grant_missing(connection: Any, params: dict[str, Any]) -> None:
    for name, is_sequence in query(connection, _MISSING_GRANTS, **params):
        kind, rights = ("SEQUENCE", _SEQUENCES) if is_sequence else ("TABLE", _DML)
        statement = f"GRANT {rights} ON {kind} {{schema}}.{{name}} TO {{role}}"
        _execute_for(connection, statement, name, params)


def _restrict(connection: Any, params: dict[str, Any]) -> None:
    for tables, statement in (
        (_WRITABLE, "REVOKE ALL ON {schema}.{name} FROM {role}"),
        (_UNREADABLE, "GRANT SELECT ON {schema}.{name} TO {role}"),
    ):
        for (name,) in query(connection, tables, **params):
            _execute_for(connection, statement, name, params)


def _execute_for(
    connection: Any, statement: str, name: str, params: dict[str, Any]
) -> None:
    execute(
        connection, statement, name=name, schema=params["schema"], role=params["role"]
    )
