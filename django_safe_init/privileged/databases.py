"""Databases, which have to be there before anything can be initialized in them."""

from __future__ import annotations

from django.db import connections

from django_safe_init.core.step import PrivilegedContext
from django_safe_init.privileged.registration import register, rows, run

_OWNER = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s"


def ensure_database(name: str | None = None, *, owner: str) -> None:
    """A database with that owner, a role that exists or is ensured before.

    `name` is that of the alias that is initialized, unless given. One that belongs to another
    role is given to `owner`, with what is in its catalogue alone: not its tables.
    """

    def name_for(context: PrivilegedContext) -> str:
        return name or str(connections[context.alias].settings_dict["NAME"])

    def ensure(context: PrivilegedContext) -> None:
        database = name_for(context)
        if not rows(context.connection, _OWNER, database):
            statement = "CREATE DATABASE {database} OWNER {owner}"
        elif not done(context):
            statement = "ALTER DATABASE {database} OWNER TO {owner}"
        else:
            return
        run(context.connection, statement, database=database, owner=owner)

    def done(context: PrivilegedContext) -> bool:
        return rows(context.connection, _OWNER, name_for(context)) == [(owner,)]

    register(f"database_{name}" if name else "database", ensure, done)


def ensure_extension(name: str) -> None:
    """The extension, in the database that is initialized, in its default schema."""

    def ensure(context: PrivilegedContext) -> None:
        run(context.target(), "CREATE EXTENSION IF NOT EXISTS {name}", name=name)

    def done(context: PrivilegedContext) -> bool:
        query = "SELECT 1 FROM pg_extension WHERE extname = %s"
        return bool(rows(context.target(), query, name))

    register(f"extension_{name}", ensure, done)
