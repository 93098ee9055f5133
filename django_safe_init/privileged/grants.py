"""What the serving role may: read and write rows, and read what tells it that it may serve."""

from __future__ import annotations

from typing import Any

from django_safe_init.columns import RUN_TABLE, STEP_TABLE
from django_safe_init.privileged.registering import (
    caller,
    register,
    rows,
    run,
    step_name,
)
from django_safe_init.steps.registry import init_step
from django_safe_init.steps.step import PrivilegedContext, StepContext

#: Which the serving role only reads.
_RECORDS = ("django_migrations", RUN_TABLE, STEP_TABLE)
_DML = "SELECT, INSERT, UPDATE, DELETE"
_SEQUENCES = "USAGE, SELECT"
_DEFAULTS = "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT"

#: Default privileges that the role lacks.
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
#: Tables of the owner in which the role may not do all that it should.
_MISSING_TABLES = """
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = to_regnamespace(quote_ident(%(schema)s))
      AND pg_get_userbyid(c.relowner) = %(owner)s AND c.relkind IN ('r', 'p')
      AND c.relname <> ALL(%(records)s)
      AND NOT (has_table_privilege(%(role)s, c.oid, 'SELECT')
               AND has_table_privilege(%(role)s, c.oid, 'INSERT')
               AND has_table_privilege(%(role)s, c.oid, 'UPDATE')
               AND has_table_privilege(%(role)s, c.oid, 'DELETE'))
"""
_MAY_ENTER = """
    SELECT has_database_privilege(%(role)s, current_database(), 'CONNECT')
           AND has_schema_privilege(%(role)s, %(schema)s, 'USAGE')
"""
_BOTH_EXIST = """
    SELECT count(*) = 2 FROM pg_roles WHERE rolname IN (%(role)s, %(owner)s)
"""


def grant_application(role: str, *, owner: str, schema: str = "public") -> None:
    """The least that a serving role needs in the database that is initialized.

    It may connect, use the schema, and read and write rows of the owner's tables, those to come
    included. It may read `django_migrations` and the two status tables, and write none of them:
    the owner sees to that, in a step after the migrations. It may create nothing.
    """
    names = {"role": role, "owner": owner, "schema": schema}
    params = {**names, "records": list(_RECORDS)}

    def ensure(context: PrivilegedContext) -> None:
        target = context.target()
        [(database,)] = rows(target, "SELECT current_database()")
        for statement in (
            "GRANT CONNECT ON DATABASE {database} TO {role}",
            "GRANT USAGE ON SCHEMA {schema} TO {role}",
            "GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner}",
            f"{_DEFAULTS} {_DML} ON TABLES TO {{role}}",
            f"{_DEFAULTS} {_SEQUENCES} ON SEQUENCES TO {{role}}",
            f"GRANT {_DML} ON ALL TABLES IN SCHEMA {{schema}} TO {{role}}",
            f"GRANT {_SEQUENCES} ON ALL SEQUENCES IN SCHEMA {{schema}} TO {{role}}",
        ):
            run(target, statement, database=database, **names)
        _restrict(target, role)

    def done(context: PrivilegedContext) -> bool:
        target = context.target()
        if not _query(target, _BOTH_EXIST, params)[0][0]:
            return False
        may_enter = _query(target, _MAY_ENTER, params)[0][0]
        lacks = _query(target, _MISSING_DEFAULTS, params)
        return may_enter and not lacks and not _query(target, _MISSING_TABLES, params)

    register(f"grants_{role}", ensure, done)
    _register_restriction(role)


def _register_restriction(role: str) -> None:
    def restrict(context: StepContext) -> None:
        """The tables have got the default privileges when they were made."""
        if context.connection.vendor == "postgresql":
            _restrict(context.connection, role)

    restrict.__module__ = caller()
    init_step(restrict, name=step_name(f"records_of_{role}"), run="always")


def _restrict(connection: Any, role: str) -> None:
    for table in _RECORDS:
        if rows(connection, "SELECT to_regclass(%s)", table) != [(None,)]:
            names = {"table": table, "role": role}
            run(connection, "REVOKE ALL ON {table} FROM {role}", **names)
            run(connection, "GRANT SELECT ON {table} TO {role}", **names)


def _query(connection: Any, query: str, params: dict[str, Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(query, params)
        return list(cursor.fetchall())
