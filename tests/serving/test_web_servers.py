"""The end of web servers that initialize: none leaves a process, a session, a lock or an open run.

SIGTERM to the server, SIGINT to all its processes, as from a terminal, and SIGKILL. Each server
gets each signal in one stage: the handlers of a server are the same before, while and after the
child leads.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.processes import namespaces
from tests.processes.harness import Fleet
from tests.serving.harness import Server
from tests.serving.web_servers import (
    GUNICORN,
    NO_WORKER,
    ONE_WORKER,
    SERVERS,
    WebServer,
    assert_nothing_is_left,
    processes_of,
)
from tests.support import Database, wait_until

SLEEPING = "state = 'active' AND query LIKE '%pg_sleep%'"
WITH_WORKERS = [each for each in SERVERS if each.has_workers]


@pytest.fixture(autouse=True)
def _end_processes(fleet: Fleet) -> Iterator[None]:
    """Kill the workers that a failed test has left."""
    yield
    for pid in processes_of(fleet):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def leading(fleet: Fleet, database: Database) -> Callable[..., Server]:
    """Start a server whose child leads, and whose first migration runs a long statement."""
    fleet.use(scenario="statement", safe_init={"SERVE": "initialize"})

    def start(kind: WebServer, **settings: Any) -> Server:
        server = kind.start(fleet, **settings)
        fleet.wait_until(lambda: database.backends(SLEEPING), "the statement runs")
        return server

    return start


def outcomes(database: Database) -> list[str | None]:
    return [run["outcome"] for run in database.runs()]


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("kind", SERVERS, ids=str)
def test_before_the_child_leads(
    fleet: Fleet, database: Database, kind: WebServer
) -> None:
    """SIGTERM while the child starts ends the child, and no run begins."""
    fleet.use(scenario="statement", safe_init={"SERVE": "initialize"}, hold="1")
    server = kind.start(fleet)
    fleet.wait_for_note("loading")
    server.replica.kill(signal.SIGTERM)
    assert server.replica.wait() == kind.codes.get(signal.SIGTERM, 0), server.replica
    assert_nothing_is_left(fleet, database, server)
    assert not database.has_table("django_safe_init_run")


@pytest.mark.parametrize("kind", SERVERS, ids=str)
def test_while_the_child_leads(
    fleet: Fleet, database: Database, leading: Any, kind: WebServer
) -> None:
    """SIGINT to all processes, as from a terminal, closes the run as interrupted."""
    fleet.tracebacks = True  # a worker of uvicorn prints its KeyboardInterrupt
    server = leading(kind)
    everyone = kind.survives_two_signals
    for pid in processes_of(fleet) if everyone else [server.replica.pid]:
        os.kill(pid, signal.SIGINT)
    assert server.replica.wait() == kind.codes.get(signal.SIGINT, 0), server.replica
    assert_nothing_is_left(fleet, database, server)
    assert outcomes(database) == ["interrupted"]


@pytest.mark.parametrize("kind", SERVERS, ids=str)
def test_when_ready(fleet: Fleet, database: Database, kind: WebServer) -> None:
    """A server that is ready ends on SIGTERM with its own exit code."""
    fleet.use(scenario="gated", safe_init={"SERVE": "initialize"})
    fleet.allow()
    server = kind.start(fleet)
    server.wait_for(lambda answer: answer.status == 200)
    server.replica.kill(signal.SIGTERM)
    assert server.replica.wait() == kind.codes.get(signal.SIGTERM, 0), server.replica
    assert_nothing_is_left(fleet, database, server)
    assert outcomes(database) == ["ready"]


@pytest.mark.parametrize("kind", [*SERVERS, ONE_WORKER, NO_WORKER], ids=str)
def test_pid_one(
    fleet: Fleet, database: Database, leading: Any, kind: WebServer
) -> None:
    """As PID 1, whose end kills all processes, a server ends its child first."""
    server = leading(kind, wrapper=namespaces.wrapper())
    server_pid = namespaces.pid_one(server.replica)
    os.kill(server_pid, signal.SIGTERM)
    wait_until(lambda: outcomes(database) == ["interrupted"], message=repr(fleet))
    if not kind.ends_as_pid_one:
        assert not server.replica.ended
        os.kill(server_pid, signal.SIGKILL)
    server.replica.wait()
    assert_nothing_is_left(fleet, database, server)
    assert outcomes(database) == ["interrupted"]


def test_pid_one_is_killed(fleet: Fleet, database: Database, leading: Any) -> None:
    """The run of a killed container stays open, and the next leader closes it."""
    server = leading(GUNICORN, wrapper=namespaces.wrapper())
    os.kill(namespaces.pid_one(server.replica), signal.SIGKILL)
    server.replica.wait()
    assert_nothing_is_left(fleet, database, server)
    assert fleet.run("safe_migrate").wait() == 0, fleet
    assert outcomes(database) == ["abandoned", "ready"]


@pytest.mark.parametrize("kind", SERVERS, ids=str)
def test_the_server_is_killed(
    fleet: Fleet, database: Database, leading: Any, kind: WebServer
) -> None:
    """After SIGKILL the child ends with its worker, and the next leader does the rest."""
    server = leading(kind)
    server.replica.kill(signal.SIGKILL)
    assert server.replica.wait() == 137
    if kind.outlives_master:
        for pid in processes_of(fleet):  # as a process manager kills the others
            os.kill(pid, signal.SIGKILL)
    assert_nothing_is_left(fleet, database, server)
    assert fleet.run("safe_migrate").wait() == 0, fleet
    first = "abandoned" if kind.outlives_master else "interrupted"
    assert outcomes(database) == [first, "ready"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("kind", WITH_WORKERS, ids=str)
def test_a_worker_ends(
    fleet: Fleet,
    database: Database,
    leading: Any,
    kind: WebServer,
    number: signal.Signals,
) -> None:
    """The run of a worker that ends is closed; another worker takes over if the server goes on."""
    server = leading(kind)
    [(child, _)] = fleet.notes("inside")
    os.kill(parent_of(child), number)
    wait_until(lambda: outcomes(database)[0] == "interrupted", message=repr(fleet))
    expected = kind.codes_without_worker
    if not expected:
        server.wait_for(lambda answer: answer.status == 200)
        assert outcomes(database) == ["interrupted", "ready"]
        server.replica.kill(signal.SIGTERM)
        expected = {kind.codes.get(signal.SIGTERM, 0)}
    assert server.replica.wait() in expected, server.replica
    assert_nothing_is_left(fleet, database, server)
