"""The cost of a request to the readiness URL, and of the middleware in other requests."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from example_project.embedded import free_port
from tests.support import wait_until

from .processes import Group
from .report import Figure
from .stage import Stage
from .starts import alternate

SERVING = "config.serving"
READY = "/health/db"
#: The number of requests in one sample.
REQUESTS = 50


def ready_and_empty(stage: Stage, rounds: int = 40) -> Figure:
    """The readiness URL when ready ÷ an empty view, under gunicorn with one sync worker.

    The cost of a probe for the web process. Each request opens a connection, as each probe does.
    """
    with server(stage) as port:
        empty, ours = alternate(
            rounds, lambda: answer(port, "/empty"), lambda: answer(port, READY)
        )
    return compared("readiness ÷ an empty view", 1.1, ours, empty)


def ready_and_health_check(stage: Stage, rounds: int = 20) -> Figure:
    """The readiness URL when ready ÷ django-health-check's database check, likewise.

    The time saved by not querying the database for each probe.
    """
    with server(stage) as port:
        check, ours = alternate(
            rounds, lambda: answer(port, "/database"), lambda: answer(port, READY)
        )
    return compared("readiness ÷ a database check", 0.2, ours, check)


def ready_middleware(stage: Stage, rounds: int = 30) -> Figure:
    """The time that the middleware adds to each request once ready, in process.

    A request to an empty view through the chain of middlewares, with this package's middleware and
    without it.
    """
    with stage.database(initialized=True) as database:
        done = stage.project.run(
            "handled.py",
            str(rounds),
            environment=stage.project.environment(SERVING, database.settings()),
        )
    pairs = [map(float, line.split()) for line in done.output.splitlines()]
    bare, ours = (list(samples) for samples in zip(*pairs, strict=True))
    added = median(ours) - median(bare)
    return Figure(
        "what the ready middleware adds to a request",
        f"{added * 1e6:.2f} µs",
        "3 µs",
        added <= 3e-6,
        ours,
        bare,
        limit_seconds=median(bare) + 3e-6,
    )


def compared(
    name: str, limit: float, ours: list[float], baseline: list[float]
) -> Figure:
    ratio = median(ours) / median(baseline)
    return Figure(
        name,
        f"{ratio:.2f}",
        f"{limit:.1f}",
        ratio <= limit,
        ours,
        baseline,
        limit_seconds=limit * median(baseline),
    )


@contextmanager
def server(stage: Stage) -> Iterator[int]:
    """Start a web server and yield its port once it is ready."""
    port = free_port()
    options = ("--workers=1", "--bind", f"127.0.0.1:{port}", "--no-control-socket")
    with (
        stage.database(initialized=True) as database,
        Group(
            *("-m", "gunicorn", "config.wsgi", *options),
            folder=stage.project.root,
            environment=stage.project.environment(SERVING, database.settings()),
        ) as started,
    ):
        wait_until(lambda: is_ready(port), 30, started.errors)
        yield port


def is_ready(port: int) -> bool:
    try:
        return get(port, READY) == 200
    except ConnectionError:
        return False


def answer(port: int, path: str) -> float:
    """Return the average seconds of one request."""
    started = time.perf_counter()
    for _ in range(REQUESTS):
        code = get(port, path)
        assert code == 200, code
    return (time.perf_counter() - started) / REQUESTS


def get(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()
