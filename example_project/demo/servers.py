"""The database server of the demo: embedded, or from DATABASE_URL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import psycopg
from psycopg import sql

from embedded import EmbeddedServer, EmbeddedServerError

from .errors import DemoError

CONNECT_SECONDS = 10


class Server(Protocol):
    """The methods of a database server that the demo uses. `EmbeddedServer` has them, too."""

    def url(self, database: str = ...) -> str: ...

    def connect(self, dbname: str = ...) -> psycopg.Connection[Any]: ...

    def create_database(self, name: str) -> None: ...

    def drop_database(self, name: str) -> None: ...


class GivenServer:
    """The database server of DATABASE_URL. The demo only connects to the database named there."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._database = urlsplit(url).path.strip("/")

    def url(self, database: str = "") -> str:
        path = quote(database) if database else self._database
        return urlsplit(self._url)._replace(path=f"/{path}").geturl()

    def connect(self, dbname: str = "") -> psycopg.Connection[Any]:
        return psycopg.connect(
            self.url(dbname), autocommit=True, connect_timeout=CONNECT_SECONDS
        )

    def create_database(self, name: str) -> None:
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def drop_database(self, name: str) -> None:
        self._execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(
                sql.Identifier(name)
            )
        )

    def _execute(self, statement: sql.Composed) -> None:
        with self.connect() as connection:
            connection.execute(statement)


@contextmanager
def open_server(url: str | None) -> Iterator[Server]:
    """Yield the database server of `url`, or an embedded one that lives as long as the block."""
    if url:
        server = GivenServer(url)
        _check(server)
        yield server
        return
    try:
        embedded = EmbeddedServer()
        with embedded:
            yield embedded
    except EmbeddedServerError as error:
        raise DemoError(str(error), 2) from error


@contextmanager
def fresh_database(server: Server) -> Iterator[str]:
    """Yield the name of a new database. Drop it at the end, with all of its sessions."""
    name = f"shop_demo_{os.urandom(4).hex()}"
    try:
        server.create_database(name)
        yield name
    finally:
        server.drop_database(name)


def describe(server: Server) -> str:
    """Return one line about the database server."""
    with server.connect() as connection:
        version = connection.execute("SHOW server_version").fetchone()
    number = str(version[0]).split()[0] if version else "?"
    kind = (
        "embedded, thrown away afterwards"
        if isinstance(server, EmbeddedServer)
        else "from DATABASE_URL"
    )
    return f"PostgreSQL {number} ({kind})"


def _check(server: GivenServer) -> None:
    query = "SELECT rolname, rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
    try:
        with server.connect() as connection:
            row = connection.execute(query).fetchone()
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0]
        raise DemoError(
            f"The database of DATABASE_URL cannot be reached: {reason}", 4
        ) from error
    role, may_create = row or ("?", False)
    if not may_create:
        sentence = f"The demo needs a database of its own: ALTER ROLE {role} CREATEDB;"
        raise DemoError(sentence, 2)
