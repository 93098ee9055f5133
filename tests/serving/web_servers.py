"""Web servers of PyPI that run the scenarios' project, and how each of them ends."""

from __future__ import annotations

import os
import signal
import socket
import sysconfig
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from django_safe_init.backends.postgresql.lock_keys import leader_key
from tests.processes.harness import PROJECT, Fleet
from tests.serving.harness import READY, Server
from tests.support import Database, free_port, wait_until

#: Python becomes this program: it may be a binary, and may be a script.
BECOME = ("-c", "import os, sys; os.execv(sys.argv[1], sys.argv[1:])")
UWSGI = os.path.join(sysconfig.get_path("scripts"), "uwsgi")


@dataclass(frozen=True)
class WebServer:
    """A web server, by its command line. `{port}` and `{project}` are replaced."""

    name: str
    command: tuple[str, ...]
    #: True if a master starts worker processes.
    has_workers: bool = False
    #: The exit codes that are not 0, by signal.
    codes: Mapping[int, int] = field(default_factory=dict)
    #: The exit codes of a server that a lost worker ends; empty if the worker is replaced.
    codes_without_worker: frozenset[int] = frozenset()
    #: True if the workers of a killed master go on serving.
    outlives_master: bool = False
    #: False if a worker may miss two signals at once, with any application.
    survives_two_signals: bool = True
    #: False if it does not notice SIGTERM as PID 1: it has no handler.
    ends_as_pid_one: bool = True

    def __str__(self) -> str:
        return self.name

    def start(
        self, fleet: Fleet, wrapper: Sequence[str] = (), **settings: Any
    ) -> Server:
        """Start the server, and wait until it has answered a request."""
        port = free_port()
        values = {"port": port, "project": PROJECT}
        command = [word.format(**values) for word in self.command]
        env = {"PYTHONPATH": str(PROJECT), "PYTHONWARNINGS": "ignore"}
        # Behind a wrapper it is not forked from a process with an environment of its own:
        # `processes_of` finds the processes by their first environment.
        server = Server(
            fleet,
            *command,
            wrapper=wrapper or ["env"],
            listens=False,
            env=env,
            **settings,
        )
        server.port = port

        def answers() -> int | None:
            with suppress(OSError, HTTPException):
                return server.get(READY).status
            return None

        fleet.wait_until(answers, f"an answer of {self.name}")
        return server


def _module(*command: str) -> tuple[str, ...]:
    return ("-m", *command)


TERM, INT = signal.SIGTERM, signal.SIGINT
_UVICORN = _module("uvicorn", "serving:application", "--port={port}", "--lifespan=off")
_HYPERCORN = _module("hypercorn", "serving:application", "--bind=127.0.0.1:{port}")
_GRANIAN = _module("granian", "--port={port}", "--workers=2", "--interface")
_UWSGI = (
    *BECOME, UWSGI, "--http-socket=127.0.0.1:{port}", "--module=wsgi:application",
    "--enable-threads", "--die-on-term",
)  # fmt: skip
GUNICORN = WebServer(
    "gunicorn",
    _module(
        "gunicorn", "wsgi:application", "--chdir={project}", "--workers=2",
        "--bind=127.0.0.1:{port}", "--no-control-socket",
    ),
    has_workers=True,
)  # fmt: skip
HYPERCORN = WebServer(
    "hypercorn",
    (*_HYPERCORN, "--workers=2"),
    has_workers=True,
    # The exit code of one worker or of the other one, whichever ended later.
    codes_without_worker=frozenset({0, 241, 247}),
    outlives_master=True,
)
SERVERS = [
    GUNICORN,
    WebServer("uvicorn", _UVICORN, codes={TERM: 143}),
    WebServer(
        "uvicorn workers",
        (*_UVICORN, "--workers=2"),
        has_workers=True,
        outlives_master=True,
    ),
    HYPERCORN,
    *(
        WebServer(
            f"granian {interface}",
            (*_GRANIAN, interface, application),
            has_workers=True,
            codes_without_worker=frozenset({1}),
            outlives_master=True,
            survives_two_signals=interface == "asgi",
        )
        for interface, application in [
            ("asgi", "serving:application"),
            ("wsgi", "wsgi:application"),
        ]
    ),
    WebServer(
        "daphne",
        _module("daphne", "--port={port}", "serving:application"),
        codes={INT: 130},
    ),
    WebServer(
        "waitress",
        _module("waitress", "--listen=127.0.0.1:{port}", "wsgi:application"),
        codes={TERM: 143},
        ends_as_pid_one=False,
    ),
    WebServer("uwsgi", _UWSGI, codes={TERM: 30, INT: 30}),
    WebServer(
        "uwsgi workers",
        (*_UWSGI, "--master", "--processes=2"),
        has_workers=True,
        outlives_master=True,
    ),
]
#: Other modes, which differ as PID 1.
ONE_WORKER = WebServer("hypercorn -w 1", (*_HYPERCORN, "--workers=1"), has_workers=True)
NO_WORKER = WebServer("hypercorn -w 0", (*_HYPERCORN, "--workers=0"))


def processes_of(fleet: Fleet) -> list[int]:
    """Return the processes of this scenario, in whatever PID namespace they are."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/environ", "rb") as environment:
            if f"SCENARIO_DIR={fleet.directory}".encode() in environment.read():
                found.append(int(name))
    return found


def assert_nothing_is_left(fleet: Fleet, database: Database, server: Server) -> None:
    """Fail unless the processes, sessions and locks end, and the port is free."""
    wait_until(lambda: not processes_of(fleet), message=lambda: str(server.replica))
    wait_until(lambda: not database.backends())
    assert database.holders(leader_key()) == []
    wait_until(lambda: is_free(server.port), message=f"port {server.port}")


def is_free(port: int) -> bool:
    """Return True if a server can listen on the port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
