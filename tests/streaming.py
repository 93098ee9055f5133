"""A primary and its streaming standby, behind one address that can be switched."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Mapping
from typing import Any

from example_project.embedded import EmbeddedServer, EmbeddedServerError
from tests.support import PATIENCE, wait_until

#: The timeout of each event, in seconds.


class StreamingServer(EmbeddedServer):
    """A server that is a primary, or a standby of another one."""

    def __init__(self, source: EmbeddedServer | None = None) -> None:
        super().__init__(18)
        #: The server that the first start copies; None for a new primary.
        self._source = source

    def _initdb(self) -> None:
        if self._source is None:
            super()._initdb()
        else:
            self._copy(self._source)

    def _copy(self, source: EmbeddedServer) -> None:
        """Make the data directory a standby of the running server `source`."""
        shutil.rmtree(self.data, ignore_errors=True)
        command: list[Any] = [
            *(self._bin / "pg_basebackup", "--pgdata", self.data, "--no-sync"),
            *("--wal-method=stream", "--checkpoint=fast"),
            *("-h", source.host, "-p", str(source.port), "-U", "postgres"),
        ]
        if self._spawn(command).wait() != 0:
            raise EmbeddedServerError(f"pg_basebackup failed: {self.log_tail()}")
        self._be_standby_of(source)

    def _be_standby_of(self, primary: EmbeddedServer) -> None:
        conninfo = f"host={primary.host} port={primary.port} user=postgres"
        self.settings["primary_conninfo"] = conninfo
        (self.data / "standby.signal").touch()

    def configure(self, changes: Mapping[str, str]) -> None:
        """Change settings of the running server that need no restart."""
        self.settings.update(changes)
        self._configure()
        self.value("SELECT pg_reload_conf()")
        wait_until(
            lambda: all(
                self.value(f"SHOW {name}") == value for name, value in changes.items()
            )
        )

    def value(self, query: str) -> Any:
        """Return the first column of the query's first row."""
        with self.connect() as connection:
            row = connection.execute(query).fetchone()  # type: ignore[arg-type]  # no literal
        return row[0] if row else None

    def promote(self) -> None:
        """Make the standby the primary."""
        assert self.value("SELECT pg_promote()")

    def follow(self, primary: StreamingServer) -> None:
        """Start this stopped server, which was shut down cleanly, as a standby of `primary`."""
        self._be_standby_of(primary)
        self.start()

    def start_over_from(self, primary: StreamingServer) -> None:
        """Copy `primary` again, because the two have diverged."""
        self.stop("immediate")
        self._copy(primary)
        self.start()


class Switch:
    """A TCP proxy, as a load balancer is, whose next connections go to `target`."""

    def __init__(self, target: EmbeddedServer) -> None:
        #: None to close each new connection at once.
        self.target: EmbeddedServer | None = target
        self._listener = socket.create_server((EmbeddedServer.host, 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()
        for thread in self._threads:
            thread.join()

    def drop(self) -> None:
        """End all connections."""
        for sock in self._sockets:
            _hang_up(sock)
        self._sockets.clear()

    def _start(self, function: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._connect(self._listener.accept()[0])

    def _connect(self, client: socket.socket) -> None:
        try:
            if self.target is None:
                raise OSError
            address = (self.target.host, self.target.port)
            server = socket.create_connection(address)
        except OSError:
            client.close()
            return
        self._sockets += [client, server]
        self._start(_copy, client, server)
        self._start(_copy, server, client)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)
    _hang_up(source)
    _hang_up(target)


def _hang_up(sock: socket.socket) -> None:
    # `close` does not wake the thread that reads from the socket.
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


class StreamingPair:
    """Two servers, of which one is the primary, behind a switch that leads to it."""

    def __init__(self) -> None:
        self.primary = StreamingServer()
        self.primary.start()
        self.standby = StreamingServer(self.primary)
        self.standby.start()
        self.switch = Switch(self.primary)

    def close(self) -> None:
        self.switch.close()
        self.standby.close()
        self.primary.close()

    def params(self, dbname: str = "postgres") -> dict[str, Any]:
        """Return the parameters of a connection through the switch."""
        return {**self.primary.params(dbname), "port": self.switch.port}

    def wait_for_standby(self) -> None:
        """Wait until the standby has replayed everything that the primary has written."""
        position = self.primary.value("SELECT pg_current_wal_insert_lsn()")
        query = f"SELECT pg_last_wal_replay_lsn() >= '{position}'"
        wait_until(lambda: self.standby.value(query), PATIENCE)

    def begin_switchover(self) -> None:
        """Shut the primary down, and let the switch lead to the standby, which is read-only."""
        self.primary.stop("fast")
        self.switch.target = self.standby

    def end_switchover(self) -> None:
        """Promote the standby; the former primary follows it."""
        self.standby.promote()
        self.primary.follow(self.standby)
        self.primary, self.standby = self.standby, self.primary

    def lose_the_tail(self) -> None:
        """Cut the replication, so that a failover loses all later transactions."""
        self.wait_for_standby()
        self.standby.configure({"primary_conninfo": ""})
        wait_until(
            lambda: not self.standby.value("SELECT count(*) FROM pg_stat_wal_receiver")
        )

    def fail_over(self) -> None:
        """Let the primary crash, and promote the standby, which becomes the target."""
        self.primary.stop("immediate")
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary
        self.switch.target = self.primary

    def repair(self) -> None:
        """Make two streaming servers of what a test has left."""
        self.switch.target = self.primary
        if not self.primary.running:
            self.primary.start()
        self.standby.start_over_from(self.primary)
