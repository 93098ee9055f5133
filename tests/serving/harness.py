"""Real web servers of the scenarios' project, and requests to them."""

from __future__ import annotations

import http.client
import json
import re
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tests.processes.harness import PROJECT, Fleet, Replica
from tests.support import PATIENCE, wait_until

LIVE, READY, STATUS = "/health/live", "/health/db", "/api/db/status"
#: The headers of a browser.
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
#: Replaces itself by the program after it, which inherits that SIGCHLD is ignored: `trap '' CHLD`.
IGNORING_CHILDREN = (
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
    "os.execv(sys.argv[1], sys.argv[1:])",
)
#: The web server itself leaves sockets and files open.
WARNINGS = ",".join(
    [
        "always::ResourceWarning",
        "ignore:unclosed <socket:ResourceWarning",
        "ignore:unclosed file <_io.FileIO:ResourceWarning",
    ]
)


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def worker(self) -> int:
        """The process ID of the worker that responded, under gunicorn."""
        return int(self.headers["x-worker"])


class Server:
    """A server process with its workers, on a free port.

    The constructor waits until it listens, unless `listens` is False.
    """

    MIDDLEWARE = "django_safe_init.middleware.InitializationMiddleware"

    def __init__(
        self,
        fleet: Fleet,
        *command: str,
        wrapper: Sequence[str] = (),
        listens: bool = True,
        **settings: Any,
    ) -> None:
        project = {"MIDDLEWARE": [self.MIDDLEWARE], **settings.pop("project", {})}
        env = {"PYTHONWARNINGS": WARNINGS, **settings.pop("env", {})}
        settings.setdefault("first_status", str(PATIENCE))
        self.replica = Replica(
            [*wrapper, sys.executable, *command],
            fleet.environment(project=project, env=env, **settings),
            fleet.directory / f"replica-{len(fleet.replicas)}",
        )
        fleet.replicas.append(self.replica)
        if listens:
            fleet.wait_until(self.ports, "a server")

    def ports(self) -> list[int]:
        """Return the ports on which it listens, read from its output."""
        printed = self.replica.stderr + self.replica.stdout
        return [int(port) for port in re.findall(r"http://127\.0\.0\.1:(\d+)", printed)]

    @cached_property
    def port(self) -> int:
        return self.ports()[0]

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request over a new connection; return the answer."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=PATIENCE
        )
        try:
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            body = response.read().decode()
        finally:
            connection.close()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, body)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("GET", path, headers)

    def post(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("POST", path, headers)

    def get_often(self, path: str, times: int = 40, clients: int = 8) -> list[Answer]:
        """Send requests from several clients at once, so that each worker gets some."""
        with ThreadPoolExecutor(clients) as pool:
            return list(pool.map(lambda _: self.get(path), range(times)))

    def wait_for(self, condition: Callable[[Answer], Any], path: str = READY) -> Answer:
        """Wait for the first answer that fulfills the condition; return it."""
        last: list[Answer] = []

        def poll() -> Answer | None:
            last[:] = [self.get(path)]
            return last[0] if condition(last[0]) else None

        return wait_until(poll, message=lambda: f"{last} of {self.replica}")  # type: ignore[return-value]  # never None

    def wait_until_ready(self, workers: int = 1, besides: Collection[int] = ()) -> None:
        """Wait until so many workers, not counting `besides`, have answered 200."""
        ready: set[int] = set()

        def poll() -> bool:
            answers = self.get_often(READY, 4 * workers)
            ready.update(each.worker for each in answers if each.status == 200)
            ready.difference_update(besides)
            return len(ready) >= workers

        wait_until(poll, message=lambda: f"ready: {ready} of {self.replica}")

    def end(self) -> None:
        """Send SIGTERM, as an orchestrator does; fail unless it exits cleanly."""
        self.replica.kill(signal.SIGTERM)
        assert self.replica.wait() in (0, 143), self.replica


def gunicorn(
    fleet: Fleet,
    *options: str,
    workers: int = 1,
    app: str = "wsgi:application",
    settings: Mapping[str, Any] = {},
) -> Server:
    """Start the project under gunicorn."""
    common: Sequence[str] = ("--chdir", str(PROJECT), "--bind", "127.0.0.1:0")
    return Server(
        fleet,
        "-m",
        "gunicorn",
        app,
        *common,
        "--no-control-socket",
        f"--workers={workers}",
        *options,
        **settings,
    )


def uvicorn(fleet: Fleet, *more: str, **settings: Any) -> Server:
    """Start the project under uvicorn."""
    options = ("--app-dir", str(PROJECT), "--port", "0", "--lifespan", "off", *more)
    return Server(fleet, "-m", "uvicorn", "serving:application", *options, **settings)
