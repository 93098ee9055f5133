"""The middleware under an ASGI server."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.processes.harness import Fleet
from tests.serving.harness import BROWSER, LIVE, READY, STATUS


@pytest.mark.smoke
def test_blocked_until_ready(fleet: Fleet, serve_async: Any) -> None:
    """Requests to sync and async views are blocked until the database is ready."""
    fleet.use(scenario="gated")
    server = serve_async()
    assert server.get(LIVE).status == 200
    for path in ("/sync/", "/status/", "/entries/"):
        assert server.get(path).status == 503
    assert server.get("/sync/", BROWSER).headers["content-type"].startswith("text/html")
    leader = fleet.start("safe_migrate")
    fleet.wait_for_note("inside")
    server.wait_for(lambda answer: answer.json["state"] == "migrating")
    assert server.get(STATUS).json["state"] == "migrating"
    fleet.allow()
    assert leader.wait() == 0, leader
    server.wait_for(lambda answer: answer.status == 200)
    assert server.get("/sync/").body == "sync"
    assert server.get("/status/").json == {"state": "ready"}
    assert server.get("/entries/").json == {"entries": ["gate", "data"]}


def test_the_first_request(fleet: Fleet, serve_async: Any) -> None:
    """The first request of a new process waits for its first status, and is served."""
    assert fleet.run("safe_migrate").wait() == 0
    assert serve_async().get("/entries/").json == {"entries": ["data"]}


def test_a_database_that_never_answers(serve_async: Any, black_hole: int) -> None:
    """Probes are answered while another request waits for the first status."""
    server = serve_async(
        database_settings={"PORT": str(black_hole)},
        safe_init={"CONNECT_TIMEOUT": 8},
    )
    server.get(LIVE)
    visitor = threading.Thread(target=server.get, args=("/sync/",))
    visitor.start()
    answers = [server.get(path) for path in (LIVE, READY, STATUS)]
    assert visitor.is_alive()
    assert [each.status for each in answers] == [200, 503, 200]
    visitor.join()
    assert "is not ready" in server.replica.stderr


@pytest.mark.parametrize("path", [LIVE, READY, STATUS, "/sync/"])
def test_head(serve_async: Any, path: str) -> None:
    """HEAD has a length and no body, also on the wire."""
    answer = serve_async().request("HEAD", path)
    assert answer.body == ""
    assert int(answer.headers["content-length"]) > 0
