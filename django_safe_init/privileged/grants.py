"""What the serving role may: read and write rows, and read what tells it that it may serve."""

from __future__ import annotations

from typing import Any

from django_safe_init.core.columns import RUN_TABLE, STEP_TABLE
from django_safe_init.core.step import PrivilegedContext, StepContext
from django_safe_init.core.step_registry import init_step
from django_safe_init.privileged.registration import (
    caller,
    register,
    rows,
    run,
    step_name,
)

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
#: What the owner has, and the role may not use as it should; the last column is "a sequence".
_LACKING = """
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
#: Of the records: which the role may not read, and which it may write (any of these).
_RECORDS_OF = """
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = to_regnamespace(quote_ident(%(schema)s))
      AND c.relname = ANY(%(records)s) AND c.relkind IN ('r', 'p')
"""
_UNREADABLE = f"{_RECORDS_OF} AND NOT has_table_privilege(%(role)s, c.oid, 'SELECT')"
_WRITABLE = f"""
    {_RECORDS_OF}
    AND has_table_privilege(%(role)s, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
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
    included; what others own there is left alone. It may read `django_migrations` and the two
    status tables, and write none of them: the owner sees to that, in a step after the
    migrations. Nothing lets it create anything; what the schema gives to everybody, as `public`
    did before PostgreSQL 15, it keeps.
    """
    names = {"role": role, "owner": owner, "schema": schema}
    params = {**names, "records": list(_RECORDS)}

    def ensure(context: PrivilegedContext) -> None:
        target = context.target()
        [(database,)] = rows(target, "SELECT current_database()")
        with target.connection.transaction():  # nobody sees a half of it
            for statement in (
                "GRANT CONNECT ON DATABASE {database} TO {role}",
                "GRANT USAGE ON SCHEMA {schema} TO {role}",
                "GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner}",
                f"{_DEFAULTS} {_DML} ON TABLES TO {{role}}",
                f"{_DEFAULTS} {_SEQUENCES} ON SEQUENCES TO {{role}}",
            ):
                run(target, statement, database=database, **names)
            _grant_lacking(target, params)
            _restrict(target, params)

    def done(context: PrivilegedContext) -> bool:
        target = context.target()
        if not _query(target, _BOTH_EXIST, params)[0][0]:
            return False
        # Not whether the records are writable: they are, until the leader's step.
        missing = (_MISSING_DEFAULTS, _LACKING, _UNREADABLE)
        return _query(target, _MAY_ENTER, params)[0][0] and not any(
            _query(target, query, params) for query in missing
        )

    # One that is in several schemas needs several names.
    suffix = role if schema == "public" else f"{role}_{schema}"
    register(f"grants_{suffix}", ensure, done)
    _register_restriction(f"records_of_{suffix}", params)


def _register_restriction(name: str, params: dict[str, Any]) -> None:
    def restrict(context: StepContext) -> None:
        """The tables have got the default privileges when they were made."""
        if context.connection.vendor == "postgresql":
            _restrict(context.connection, params)

    restrict.__module__ = caller()
    init_step(restrict, name=step_name(name), run="always")


def _grant_lacking(connection: Any, params: dict[str, Any]) -> None:
    for name, is_sequence in _query(connection, _LACKING, params):
        kind, rights = ("SEQUENCE", _SEQUENCES) if is_sequence else ("TABLE", _DML)
        statement = f"GRANT {rights} ON {kind} {{schema}}.{{name}} TO {{role}}"
        _run_for(connection, statement, name, params)


def _restrict(connection: Any, params: dict[str, Any]) -> None:
    for query, statement in (
        (_WRITABLE, "REVOKE ALL ON {schema}.{name} FROM {role}"),
        (_UNREADABLE, "GRANT SELECT ON {schema}.{name} TO {role}"),
    ):
        for (name,) in _query(connection, query, params):
            _run_for(connection, statement, name, params)


def _run_for(
    connection: Any, statement: str, name: str, params: dict[str, Any]
) -> None:
    run(connection, statement, name=name, schema=params["schema"], role=params["role"])


def _query(connection: Any, query: str, params: dict[str, Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(query, params)
        return list(cursor.fetchall())
