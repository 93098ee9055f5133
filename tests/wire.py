"""A proxy that understands PostgreSQL's protocol and ends the session of one statement."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

from tests.support import Database

_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102
#: Messages of the extended protocol that execute nothing before the Sync that follows them.
_UNTIL_SYNC = b"PBDECH"
_STATEMENT = b"QS"

#: The session is terminated, and then the statement is sent.
TERMINATED_BEFORE = "terminated before"
#: The client's socket is reset, and the statement is never sent.
RESET_BEFORE = "reset before"
#: The server executes the statement, and the client's socket is reset instead of an answer.
ANSWER_LOST = "answer lost"
#: The session is terminated after the statement, while it is idle.
TERMINATED_AFTER = "terminated after"
#: The statement is never sent, and its connection stays open.
NO_ANSWER = "no answer"
FAULTS = [TERMINATED_BEFORE, RESET_BEFORE, ANSWER_LOST, TERMINATED_AFTER]


def _receive(sock: socket.socket, size: int) -> bytes:
    """Return exactly `size` bytes. Raises `EOFError` at the end of the stream."""
    received = bytearray()
    while len(received) < size:
        part = sock.recv(size - len(received))
        if not part:
            raise EOFError
        received += part
    return bytes(received)


def _message(sock: socket.socket) -> tuple[bytes, bytes]:
    """Return the type of the next message, and the whole message."""
    head = _receive(sock, 5)
    (length,) = struct.unpack("!I", head[1:])
    return head[:1], head + _receive(sock, length - 4)


def _reset(sock: socket.socket) -> None:
    """Close the socket with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _hang_up(sock)


def _hang_up(sock: socket.socket) -> None:
    # `close` does not wake the thread that reads from the socket.
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)
    sock.close()


class StatementProxy:
    """A proxy before `database`'s server that counts the statements of all sessions.

    `arm` starts the count again and chooses the statement that meets the fault. Opening a
    connection counts as a statement, too.
    """

    def __init__(self, database: Database) -> None:
        self._target = (database.parameters["host"], database.parameters["port"])
        self._admin = Database("postgres", database.parameters)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.arm(0)

    def arm(self, number: int, fault: str = "") -> None:
        """Choose the statement that meets the fault; 0 for none."""
        with self._lock:
            self.count, self.number, self.fault = 0, number, fault
            #: The statement that met the fault; empty while none has.
            self.hit = ""

    def fault_of(self, statement: bytes) -> str:
        """Count a statement, and return its fault, or an empty string."""
        with self._lock:
            self.count += 1
            if self.count != self.number:
                return ""
            self.hit = statement.decode(errors="replace")
            return self.fault

    def terminate(self, pid: int) -> None:
        with self._lock:
            self._admin.rows("SELECT pg_terminate_backend(%s, 20000)", pid)

    def __enter__(self) -> StatementProxy:
        self._start(self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            _hang_up(sock)
        for thread in self._threads:
            thread.join()
        self._admin.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]  # any callable
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for sock in (client, server):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [client, server]
                session = _ProxiedSession(self, client, server)
                self._start(session.forward_requests)


class _ProxiedSession:
    """One session through the proxy, with a thread for each direction."""

    def __init__(
        self, proxy: StatementProxy, client: socket.socket, server: socket.socket
    ) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._pid = 0
        self._fault = ""

    @contextlib.contextmanager
    def _until_end(self) -> Iterator[None]:
        try:
            with contextlib.suppress(EOFError, OSError):
                yield
        finally:
            _hang_up(self._client)
            _hang_up(self._server)

    def forward_requests(self) -> None:
        with self._until_end():
            if not self._forward_startup():
                return
            self._proxy._start(self.forward_responses)
            waiting = b""
            while True:
                kind, message = _message(self._client)
                waiting += message
                if kind in _UNTIL_SYNC:
                    continue
                if kind in _STATEMENT and not self._meet(waiting):
                    return
                if self._fault == NO_ANSWER:
                    continue
                self._server.sendall(waiting)
                waiting = b""

    def _forward_startup(self) -> bool:
        while True:
            head = _receive(self._client, 8)
            length, code = struct.unpack("!II", head)
            if code not in (_SSL, _GSS):
                break
            self._client.sendall(b"N")
        rest = _receive(self._client, length - 8)
        if code == _CANCEL:
            self._server.sendall(head + rest)
            return False
        self._fault = self._proxy.fault_of(b"connect " + rest)
        if self._fault in (TERMINATED_BEFORE, RESET_BEFORE):
            _reset(self._client)
            return False
        self._server.sendall(head + rest)
        return True

    def _meet(self, statement: bytes) -> bool:
        """Count the statement; return False if it must not be sent."""
        self._fault = fault = self._proxy.fault_of(statement)
        if fault == TERMINATED_BEFORE:
            self._proxy.terminate(self._pid)
        elif fault == RESET_BEFORE:
            _reset(self._client)
            return False
        return True

    def forward_responses(self) -> None:
        with self._until_end():
            while True:
                kind, message = _message(self._server)
                if kind == b"K":
                    (self._pid,) = struct.unpack("!I", message[5:9])
                if self._fault == ANSWER_LOST:
                    if kind == b"Z":
                        _reset(self._client)
                        return
                    continue
                if kind == b"Z" and self._fault == TERMINATED_AFTER:
                    self._fault = ""
                    self._proxy.terminate(self._pid)
                self._client.sendall(message)
