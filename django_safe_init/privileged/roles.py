"""Roles that may log in and nothing else; their passwords never reach the server as they are."""

from __future__ import annotations

import os
from typing import Any

from django_safe_init.core.step import PrivilegedContext
from django_safe_init.exceptions import ConfigurationError
from django_safe_init.privileged.registration import register, rows, run

_ROLE = "SELECT rolcanlogin FROM pg_roles WHERE rolname = %s"
#: What a superuser is anyway, and another administrator is not by having made the role.
_MAY_ACT_AS = "SELECT pg_has_role(%s, 'USAGE')"
#: Keeps the statements of a transaction out of the server's log, which only a superuser may.
_UNLOGGED = """
    SELECT set_config(name, value, true)
    FROM (VALUES ('log_statement', 'none'), ('log_min_duration_statement', '-1'),
                 ('log_min_duration_sample', '-1'), ('log_transaction_sample_rate', '0'),
                 ('log_min_error_statement', 'panic')) AS quiet(name, value)
    WHERE (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
"""


def ensure_role(name: str, *, password_env: str | None = None) -> None:
    """A role that may log in, and is neither superuser nor may create roles or databases.

    `password_env` names the environment variable with its password, which is needed in the
    privileged phase alone, and is set each time, so that a new password arrives. The server gets
    a SCRAM-SHA-256 verifier: the password is in no statement, no log and no catalogue, and a
    superuser keeps the verifier out of the log, too. A role that exists keeps whatever else it
    may. An administrator who is no superuser becomes a member of the role, without which it
    could give it nothing.
    """

    def ensure(context: PrivilegedContext) -> None:
        if not rows(context.connection, _ROLE, name):
            attributes = "NOSUPERUSER NOCREATEDB NOCREATEROLE"
            run(
                context.connection,
                f"CREATE ROLE {{role}} LOGIN {attributes}",
                role=name,
            )
        run(context.connection, "ALTER ROLE {role} LOGIN", role=name)
        if rows(context.connection, _MAY_ACT_AS, name) != [(True,)]:
            run(context.connection, "GRANT {role} TO CURRENT_USER", role=name)
        if password_env is not None:
            _set_password(context.connection, name, _secret(name, password_env))

    def done(context: PrivilegedContext) -> bool:
        return rows(context.connection, _ROLE, name) == [(True,)]

    register(f"role_{name}", ensure, done)


def _secret(role: str, variable: str) -> str:
    password = os.environ.get(variable, "")
    if not password:
        raise ConfigurationError(
            f"The password of the role {role} is missing: set {variable} in the environment."
        )
    return password


def _set_password(connection: Any, role: str, password: str) -> None:
    from psycopg import sql  # not above: projects on SQLite may have no driver

    raw = connection.connection
    encoding = raw.info.encoding
    verifier = raw.pgconn.encrypt_password(
        password.encode(encoding), role.encode(encoding), b"scram-sha-256"
    )
    statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
    # On the driver's connection: what goes through Django's may be in Django's log.
    with raw.transaction():
        raw.execute(_UNLOGGED)
        raw.execute(statement.format(sql.Identifier(role), verifier.decode()))
