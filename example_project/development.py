"""The development database: without DATABASE_URL, an embedded server with data in `.postgres/`.

The first command starts the server, further commands (`shell` beside `runserver`) join it, and it
stops after the last one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from embedded import EmbeddedServer, EmbeddedServerError

DIRECTORY = Path(__file__).resolve().parent / ".postgres"
DATABASE = "shop"
# `demo` starts a separate server. The other commands do not query the database.
WITHOUT_DATABASE = {
    "demo",
    "help",
    "version",
    "diffsettings",
    "startapp",
    "startproject",
    "collectstatic",
    "findstatic",
}
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
STOPPING_SECONDS = 10.0


def provide_database(arguments: list[str]) -> None:
    """Set DATABASE_URL to the development server if this command line needs a database."""
    if not arguments[1:] or {"-h", "--help", "--version", *WITHOUT_DATABASE} & set(
        arguments[1:]
    ):
        return
    try:
        os.environ["DATABASE_URL"] = development_url()
    except EmbeddedServerError as error:
        sys.exit(f"No DATABASE_URL, and no embedded server either. {error}")


def development_url() -> str:
    """Return the URL of the development database. Its server runs until this process ends.

    The server also keeps running if another program replaces the process, as in
    `safe_migrate -- gunicorn mysite.wsgi`.
    """
    server = SharedServer(data_dir=DIRECTORY, settings=DURABLE)
    DIRECTORY.mkdir(exist_ok=True)
    with server.starting():
        if not server.join():
            server.start()
            server.leave_to_guard()
            ensure_database(server)
    return server.url(DATABASE)


def ensure_database(server: EmbeddedServer) -> None:
    """Create the shop's database if it does not exist."""
    with server.connect() as connection:
        found = connection.execute(
            "SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]
        ).fetchone()
    if not found:
        server.create_database(DATABASE)


class SharedServer(EmbeddedServer):
    """An embedded server with many owners, which open its lifeline, a named pipe."""

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Allow only one process at a time to start or join the server."""
        with (self.directory / "starting").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def join(self) -> bool:
        """Keep a running server alive for this process, too. Return False if none runs."""
        try:
            lifeline = os.open(self._lifeline_path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            # The pipe has no reader: the guard has ended, and so has the server.
            self._wait_for_predecessor()
            return False
        os.set_inheritable(lifeline, True)
        self.port = int((self.data / "postmaster.pid").read_text().splitlines()[3])
        return True

    def leave_to_guard(self) -> None:
        """Leave stopping to the guard, which stops the server after its last owner."""
        for process in (self._process, self._guard):
            if process:
                # This process does not wait for them, and Popen must not warn about that.
                process.returncode = 0

    @property
    def _lifeline_path(self) -> Path:
        return self.directory / "lifeline"

    def _open_lifeline(self) -> tuple[int, int]:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self._lifeline_path, 0o600)
        # Not blocking, because the next line opens the other end.
        reading = os.open(self._lifeline_path, os.O_RDONLY | os.O_NONBLOCK)
        writing = os.open(self._lifeline_path, os.O_WRONLY)
        os.set_blocking(reading, True)
        os.set_inheritable(writing, True)
        return reading, writing

    def _wait_for_predecessor(self) -> None:
        deadline = time.monotonic() + STOPPING_SECONDS
        while (self.data / "postmaster.pid").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
