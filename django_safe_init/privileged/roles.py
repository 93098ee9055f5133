"""Create roles without privileges, whose passwords reach PostgreSQL only as verifiers."""

from __future__ import annotations

import os
from typing import Any

from django_safe_init.core.step import PrivilegedContext
from django_safe_init.exceptions import ConfigurationError
from django_safe_init.privileged.registration import execute, query, register

_ROLE = "SELECT rolcanlogin FROM pg_roles WHERE rolname = %s"
#: True for a superuser. Creating the role does not make another administrator its member.
_MAY_ACT_AS = "SELECT pg_has_role(%s, 'USAGE')"
#: Keeps the statements of a transaction out of PostgreSQL's log, which only a superuser can.
_UNLOGGED = """
    SELECT pg_catalog.set_config(name, value, true)
    FROM (VALUES ('log_statement', 'none'), ('log_min_duration_statement', '-1'),
                 ('log_min_duration_sample', '-1'), ('log_transaction_sample_rate', '0'),
                 ('log_min_error_statement', 'panic')) AS quiet(name, value)
    WHERE (SELECT rolsuper FROM pg_catalog.pg_roles
           WHERE rolname OPERATOR(pg_catalog.=) current_user)
"""


def ensure_role(name: str, *, password_env: str | None = None) -> None:
    """Create a role that can log in, and cannot create roles or databases.

    `password_env` is the name of an environment variable with the password. The privileged phase
    reads it and sets the password each time, so that a new password takes effect. PostgreSQL
    receives a SCRAM-SHA-256 verifier: the password itself appears in no statement, log or
    catalog. A superuser also keeps the verifier out of the log.

    An existing role keeps its other privileges. An administrator who is not a superuser becomes
    a member of the role, because otherwise it could not grant the role anything.
    """

    def ensure(context: PrivilegedContext) -> None:
        if not query(context.connection, _ROLE, name):
            attributes = "NOSUPERUSER NOCREATEDB NOCREATEROLE"
            execute(
                context.connection,
                f"CREATE ROLE {{role}} LOGIN {attributes}",
                role=name,
            )
        execute(context.connection, "ALTER ROLE {role} LOGIN", role=name)
        if query(context.connection, _MAY_ACT_AS, name) != [(True,)]:
            execute(context.connection, "GRANT {role} TO CURRENT_USER", role=name)
        if password_env is not None:
            _set_password(context.connection, name, _secret(name, password_env))

    def done(context: PrivilegedContext) -> bool:
        return query(context.connection, _ROLE, name) == [(True,)]

    register(f"role_{name}", ensure, done)


def _secret(role: str, variable: str) -> str:
    password = os.environ.get(variable, "")
    if not password:
        raise ConfigurationError(
            f"The password of the role {role} is missing: set {variable} in the environment."
        )
    return password


def _set_password(connection: Any, role: str, password: str) -> None:
    from psycopg import sql  # projects on SQLite may not have the driver

    raw = connection.connection
    encoding = raw.info.encoding
    verifier = raw.pgconn.encrypt_password(
        password.encode(encoding), role.encode(encoding), b"scram-sha-256"
    )
    statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
    # On the driver's connection, because Django may log statements on its own.
    with raw.transaction():
        raw.execute(_UNLOGGED)
        raw.execute(statement.format(sql.Identifier(role), verifier.decode()))
