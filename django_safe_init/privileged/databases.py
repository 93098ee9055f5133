"""Create databases and extensions."""

from __future__ import annotations

from django.db import connections

from django_safe_init.core.step import PrivilegedContext
from django_safe_init.privileged.registration import execute, query, register

_OWNER = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s"
_EXTENSION = "SELECT 1 FROM pg_extension WHERE extname = %s"


def ensure_database(name: str | None = None, *, owner: str) -> None:
    """Create a database that belongs to `owner`.

    The role `owner` must exist, or be ensured before. `name` defaults to the database that is
    initialized. If the database belongs to another role, its owner is changed. The owners of
    its tables are not.
    """

    def name_for(context: PrivilegedContext) -> str:
        return name or str(connections[context.alias].settings_dict["NAME"])

    def ensure(context: PrivilegedContext) -> None:
        database = name_for(context)
        if not query(context.connection, _OWNER, database):
            statement = "CREATE DATABASE {database} OWNER {owner}"
        elif not done(context):
            statement = "ALTER DATABASE {database} OWNER TO {owner}"
        else:
            return
        execute(context.connection, statement, database=database, owner=owner)

    def done(context: PrivilegedContext) -> bool:
        return query(context.connection, _OWNER, name_for(context)) == [(owner,)]

    register(f"database_{name}" if name else "database", ensure, done)


def ensure_extension(name: str) -> None:
    """Create an extension in the database that is initialized, in its default schema."""

    def ensure(context: PrivilegedContext) -> None:
        execute(context.target(), "CREATE EXTENSION IF NOT EXISTS {name}", name=name)

    def done(context: PrivilegedContext) -> bool:
        return bool(query(context.target(), _EXTENSION, name))

    register(f"extension_{name}", ensure, done)
