"""Real servers of the scenarios' project, and requests to them."""

from __future__ import annotations

import http.client
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tests.processes.harness import PROJECT, Fleet, Replica
from tests.support import wait_until

LIVE, READY, STATUS = "/health/live", "/health/db", "/api/db/status"
#: What a person's browser sends.
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
#: A server's own sockets and files are not ours to close.
WARNINGS = ",".join(
    [
        "always::ResourceWarning",
        "ignore:unclosed <socket:ResourceWarning",
        "ignore:unclosed file <_io.FileIO:ResourceWarning",
    ]
)


@dataclass(frozen=True)
class Answer:
    """A response, and how long it took."""

    status: int
    headers: Mapping[str, str]
    body: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def worker(self) -> int:
        """The process that gave the answer, under gunicorn."""
        return int(self.headers["x-worker"])


class Server:
    """A server process with its workers, on a port of its own choice.

    It listens once this object is made, unless that is not expected of it.
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
        self.replica = Replica(
            [*wrapper, sys.executable, *command],
            fleet.environment(project=project, env=env, **settings),
            fleet.directory / f"replica-{len(fleet.replicas)}",
        )
        fleet.replicas.append(self.replica)
        if listens:
            fleet.wait_until(self.ports, "a server")

    def ports(self) -> list[int]:
        """Where it says that it listens; empty as long as it does not."""
        printed = self.replica.stderr + self.replica.stdout
        return [int(port) for port in re.findall(r"http://127\.0\.0\.1:(\d+)", printed)]

    @cached_property
    def port(self) -> int:
        return self.ports()[0]

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The answer to one request on a connection of its own."""
        started = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            body = response.read().decode()
        finally:
            connection.close()
        seconds = time.monotonic() - started
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, body, seconds)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("GET", path, headers)

    def post(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("POST", path, headers)

    def get_often(self, path: str, times: int = 40, clients: int = 8) -> list[Answer]:
        """Answers to requests from several clients at once, so that all workers have some."""
        with ThreadPoolExecutor(clients) as pool:
            return list(pool.map(lambda _: self.get(path), range(times)))

    def wait_for(
        self, condition: Callable[[Answer], Any], path: str = READY, timeout: float = 20
    ) -> Answer:
        """The first answer that fulfills the condition."""
        last: list[Answer] = []

        def look() -> Answer | None:
            last[:] = [self.get(path)]
            return last[0] if condition(last[0]) else None

        return wait_until(look, timeout, lambda: f"{last} of {self.replica}")  # type: ignore[return-value]

    def wait_until_ready(self, workers: int = 1, besides: Collection[int] = ()) -> None:
        """Return when so many workers, not counting these, have answered that they are ready."""
        ready: set[int] = set()

        def look() -> bool:
            answers = self.get_often(READY, 4 * workers)
            ready.update(each.worker for each in answers if each.status == 200)
            ready.difference_update(besides)
            return len(ready) >= workers

        wait_until(look, 30, lambda: f"ready: {ready} of {self.replica}")

    def end(self) -> None:
        """Tell it to end, as an orchestrator does; fails unless it ends well."""
        self.replica.kill(signal.SIGTERM)
        assert self.replica.wait() in (0, 143), self.replica


def gunicorn(
    fleet: Fleet,
    *options: str,
    workers: int = 1,
    app: str = "wsgi:application",
    settings: Mapping[str, Any] = {},
) -> Server:
    """The project under gunicorn."""
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
    """The project under uvicorn."""
    options = ("--app-dir", str(PROJECT), "--port", "0", "--lifespan", "off", *more)
    return Server(fleet, "-m", "uvicorn", "serving:application", *options, **settings)
