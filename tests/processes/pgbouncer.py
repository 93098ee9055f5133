"""Debian's PgBouncer in front of one database."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from psycopg.rows import dict_row

from tests.support import Database, free_port, program, wait_until

#: PgBouncer does not run as root.
ACCOUNT = "nobody"

CONFIGURATION = """\
[databases]
{name} = host={host} port={port} dbname={name} user={user}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
admin_users = {user}
pool_mode = {mode}
default_pool_size = 20
max_client_conn = 200
"""


def _answers(pooled: Database) -> bool:
    try:
        pooled.connect(connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _command(file: Path) -> list[str]:
    command = [program("pgbouncer"), "--quiet", str(file)]
    if os.geteuid() == 0:
        os.chown(file, pwd.getpwnam(ACCOUNT).pw_uid, -1)
        command[1:1] = ["--user", ACCOUNT]
    return command


@contextmanager
def pgbouncer(database: Database, mode: str) -> Iterator[Database]:
    """Yield the database behind a pooler in `mode` (`transaction` or `session`)."""
    port = free_port()
    pooled = Database(database.name, {**database.parameters, "port": port})
    with TemporaryDirectory(prefix="pgbouncer") as directory:
        Path(directory).chmod(0o755)
        file = Path(directory) / "pgbouncer.ini"
        server = {"name": database.name, "listen_port": port, "mode": mode}
        file.write_text(CONFIGURATION.format(**database.parameters, **server))
        process = subprocess.Popen(_command(file))
        try:
            wait_until(lambda: _answers(pooled), message="PgBouncer answers")
            yield pooled
        finally:
            pooled.close()
            process.terminate()
            process.wait()


def clients(pooled: Database) -> list[str]:
    """Return the application names of the pooler's clients."""
    console = psycopg.connect(
        host=pooled.parameters["host"],
        port=pooled.parameters["port"],
        user=pooled.parameters["user"],
        dbname="pgbouncer",
        autocommit=True,
        cursor_factory=psycopg.ClientCursor,
        row_factory=dict_row,
    )
    with closing(console):
        rows = console.execute("SHOW CLIENTS").fetchall()
    return [row["application_name"] for row in rows if row["database"] == pooled.name]
