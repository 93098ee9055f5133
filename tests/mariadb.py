"""A MariaDB server from Debian's package `mariadb-server`, reached with PyMySQL."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pymysql
from pymysql.cursors import DictCursor

from tests.support import Records, free_port, program, wait_until

USER, PASSWORD = "tester", "secret"


def install_driver() -> None:
    """Let Django use PyMySQL as mysqlclient, with a version that it accepts."""
    pymysql.version_info, pymysql.__version__ = (2, 2, 7, "final", 0), "2.2.7"
    pymysql.install_as_MySQLdb()


class MariaDB:
    """A server process with a new data directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = str(directory / "socket")
        self.port = free_port()
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def install(self) -> None:
        """Create the system tables, and a user with all privileges."""
        subprocess.run(
            [
                program("mariadb-install-db"),
                "--no-defaults",
                "--user=root",
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
                f"--datadir={self.directory / 'data'}",
            ],
            check=True,
            capture_output=True,
            timeout=110,
        )
        self.start()
        with self.connect(user="root", password="", unix_socket=self.socket) as raw:
            raw.cursor().execute(
                f"GRANT ALL ON *.* TO {USER}@'%' IDENTIFIED BY '{PASSWORD}'"
            )

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program("mariadbd"),
                    "--no-defaults",
                    "--user=root",
                    "--bind-address=127.0.0.1",
                    "--skip-name-resolve",
                    "--innodb-buffer-pool-size=64M",
                    "--innodb-flush-log-at-trx-commit=0",
                    "--innodb-flush-method=nosync",
                    f"--datadir={self.directory / 'data'}",
                    f"--socket={self.socket}",
                    f"--port={self.port}",
                ],
                stdout=log,
                stderr=log,
            )
        wait_until(
            lambda: "ready for connections" in self._log.read_text(),
            60,
            self._log.read_text,
        )

    def stop(self) -> None:
        """Kill the server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def connect(self, **changes: Any) -> Iterator[Any]:
        """Yield a new autocommit connection."""
        common: dict[str, Any] = {
            "user": USER,
            "password": PASSWORD,
            "host": "127.0.0.1",
            "port": self.port,
        }
        raw = pymysql.connect(
            **{**common, **changes},
            autocommit=True,
            cursorclass=DictCursor,
            connect_timeout=20,
            init_command="SET sql_mode = 'PIPES_AS_CONCAT'",
        )
        with closing(raw):
            yield raw


class MariaDatabase(Records):
    """One database of the server."""

    def __init__(self, server: MariaDB) -> None:
        self.server = server
        self.name = f"test_{os.getpid()}_{time.monotonic_ns()}"
        with server.connect() as raw:
            raw.cursor().execute(f"CREATE DATABASE {self.name}")

    def drop(self) -> None:
        with self.server.connect() as raw:
            raw.cursor().execute(f"DROP DATABASE {self.name}")

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Return this database as an entry of Django's `DATABASES`."""
        return {
            "ENGINE": "django.db.backends.mysql",
            "NAME": self.name,
            "HOST": "127.0.0.1",
            "PORT": str(self.server.port),
            "USER": USER,
            "PASSWORD": PASSWORD,
            **changes,
        }

    def rows(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        with self.server.connect(database=self.name) as raw:
            cursor = raw.cursor()
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall())

    def has_table(self, name: str) -> bool:
        statement = (
            "SELECT count(*) FROM information_schema.tables"
            " WHERE table_schema = database() AND table_name = %s"
        )
        return bool(self.value(statement, name))

    def sessions(self) -> int:
        """Return the number of sessions of this database, without this one."""
        statement = "SELECT count(*) FROM information_schema.processlist WHERE db = %s"
        with self.server.connect() as raw:
            cursor = raw.cursor()
            cursor.execute(statement, (self.name,))
            return int(next(iter(cursor.fetchone().values())))
