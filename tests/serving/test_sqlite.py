"""A web server of a project with one SQLite file."""

from __future__ import annotations

from tests.processes.harness import Fleet
from tests.serving.harness import STATUS, gunicorn


def test_blocked_until_ready(lite_fleet: Fleet) -> None:
    """Requests are blocked until ready, and no request creates the file."""
    lite_fleet.use(scenario="gated")
    server = gunicorn(lite_fleet, workers=2)
    server.wait_for(lambda answer: answer.json["state"] == "uninitialized")
    assert server.get("/entries/").status == 503
    assert not lite_fleet.database.file.exists()
    leader = lite_fleet.start("safe_migrate")
    lite_fleet.wait_for_note("inside")
    server.wait_for(lambda answer: answer.json["state"] == "migrating", STATUS)
    lite_fleet.allow()
    assert leader.wait() == 0, leader
    server.wait_until_ready(2)
    assert server.get("/entries/").json == {"entries": ["gate", "data"]}
    server.end()
