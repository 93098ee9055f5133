"""A server that starts before its database is initialized, and what it says meanwhile."""

from __future__ import annotations

import pytest

from tests.processes.harness import Fleet
from tests.serving.harness import BROWSER, LIVE, STATUS
from tests.support import Database


@pytest.mark.smoke
def test_held_back_until_ready(fleet: Fleet, database: Database, serve) -> None:
    """Requests are held back before and while a leader migrates, and served afterwards."""
    server = serve(scenario="gated")
    assert server.get(LIVE).status == 200
    assert server.wait_for(lambda answer: "uninitialized" in answer.body).status == 503
    leader = fleet.start("safe_migrate", scenario="gated")
    fleet.wait_for_note("inside")
    migrating = server.wait_for(lambda answer: answer.json["state"] == "migrating")
    assert migrating.json["status"] == "initializing"
    assert 0 < migrating.json["progress"] < 100
    assert server.get(STATUS).json["state"] == "migrating"
    held = server.get("/entries/")
    assert (held.status, held.json["status"]) == (503, 503)
    page = server.get("/entries/?a=b", BROWSER)
    assert (page.status, page.headers["content-type"]) == (
        503,
        "text/html; charset=utf-8",
    )
    fleet.allow()
    assert leader.wait() == 0, leader
    ready = server.wait_for(lambda answer: answer.status == 200)
    assert ready.json == {"status": "healthy", "state": "ready", "initialized": True}
    assert server.get("/entries/").json == {"entries": ["gate", "data"]}
    assert server.get(STATUS).json["progress"] == 100
    assert server.get(LIVE).status == 200
