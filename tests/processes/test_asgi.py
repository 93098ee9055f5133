"""`ainitialize` in views of a real ASGI server."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import pytest

from django_safe_init.backends.postgresql.lock_keys import leader_key
from tests.processes.harness import PROJECT, Fleet, Replica
from tests.support import Database, wait_until

SLEEPING = "state = 'active' AND query LIKE '%pg_sleep%'"
OPTIONS = ["--app-dir", str(PROJECT), "--port", "0"]


class Server:
    """The project under uvicorn, on a free port."""

    def __init__(self, fleet: Fleet) -> None:
        self.replica = Replica(
            [sys.executable, "-m", "uvicorn", "serving:application", *OPTIONS],
            fleet.environment(),
            fleet.directory / "server",
        )
        fleet.replicas.append(self.replica)
        [self.port] = fleet.wait_until(
            lambda: re.findall(r"http://127\.0\.0\.1:(\d+)", self.replica.stderr),
            "a server",
        )

    def __repr__(self) -> str:
        return repr(self.replica)

    def get(self, path: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=40) as response:
            return response.read().decode()

    def connect(self, path: str) -> socket.socket:
        """Send a request, and return the connection without reading the response."""
        client = socket.create_connection(("127.0.0.1", int(self.port)), timeout=40)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        return client


@pytest.fixture
def uvicorn(fleet: Fleet) -> Iterator[Server]:
    """A web server that exits cleanly on SIGTERM."""
    started = Server(fleet)
    yield started
    started.replica.kill(signal.SIGTERM)
    assert started.replica.wait() in (0, 143), started.replica


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as clients:
        yield clients


def test_sync_views_are_not_held_up(
    uvicorn: Server, database: Database, pool: ThreadPoolExecutor
) -> None:
    """While ten requests wait for a leader, other sync and async views respond."""
    with database.connect() as leader:
        leader.execute("SELECT pg_advisory_lock(%s)", [leader_key()])
        waiting = [pool.submit(uvicorn.get, "/initialized/") for _ in range(10)]
        wait_until(lambda: len(database.followers()) == 10, message=repr(uvicorn))
        for _ in range(5):
            assert uvicorn.get("/sync/") == "sync"
        assert json.loads(uvicorn.get("/status/"))["state"] == "checking_schema"
        assert not any(each.done() for each in waiting)
        assert len(database.followers()) == 10
        leader.close()
    roles = [json.loads(each.result())["role"] for each in waiting]
    assert sorted(roles) == ["follower"] * 9 + ["leader"]
    assert len(database.applied_once()) == 5
    assert json.loads(uvicorn.get("/status/"))["state"] == "ready"


def test_sync_code_of_the_same_request_is_not_held_up(
    fleet: Fleet, uvicorn: Server, database: Database, pool: ThreadPoolExecutor
) -> None:
    """asgiref's one thread for a request's sync code is free while that request waits."""
    with database.connect() as leader:
        leader.execute("SELECT pg_advisory_lock(%s)", [leader_key()])
        waiting = pool.submit(uvicorn.get, "/beside/")
        wait_until(database.followers)
        fleet.allow("sync")
        fleet.wait_for_note("sync done")
        assert not waiting.done()
        leader.close()
    assert json.loads(waiting.result())["role"] == "leader"


def test_a_client_that_goes_away(
    fleet: Fleet, database: Database, pool: ThreadPoolExecutor
) -> None:
    """Django cancels the view of a client that disconnects, and the run ends as interrupted."""
    fleet.use(scenario="statement")
    uvicorn = Server(fleet)
    with uvicorn.connect("/initialized/"):
        fleet.wait_until(lambda: database.backends(SLEEPING), "the statement runs")
    wait_until(lambda: database.newest_run()["finished_at"], message=repr(uvicorn))
    assert database.newest_run()["outcome"] == "interrupted"
    wait_until(lambda: not database.backends())
    assert database.holders(leader_key()) == []
    assert json.loads(uvicorn.get("/initialized/"))["role"] == "leader"
    assert uvicorn.get("/sync/") == "sync"
