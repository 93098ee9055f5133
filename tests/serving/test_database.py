"""Web servers and their database: privileges, connections, and errors."""

from __future__ import annotations

import time
from typing import Any

import pytest

from example_project.embedded import free_port
from tests.processes.harness import Fleet
from tests.serving.harness import BROWSER, LIVE, READY, STATUS, Server
from tests.support import Database, wait_until

PROBES = (LIVE, READY, STATUS)


@pytest.mark.parametrize("may_read_runs", [True, False])
def test_an_application_role(
    fleet: Fleet, database: Database, serve: Any, role: str, may_read_runs: bool
) -> None:
    """A role with privileges on rows is ready, and shows progress if it may read the runs."""
    fleet.use(scenario="gated")
    server = serve(database_settings={"USER": role})
    leader = fleet.start("safe_migrate")
    fleet.wait_for_note("inside")
    database.rows(f"GRANT SELECT ON django_migrations TO {role}")
    if may_read_runs:
        database.rows(
            f"GRANT SELECT ON django_safe_init_run, django_safe_init_step TO {role}"
        )
        server.wait_for(lambda answer: answer.json["state"] == "migrating")
    else:
        server.wait_for(lambda answer: answer.json["state"] == "checking_schema")
    fleet.allow()
    assert leader.wait() == 0, leader
    database.rows(f"GRANT SELECT, INSERT, UPDATE, DELETE ON shop_entry TO {role}")
    server.wait_for(lambda answer: answer.status == 200)
    assert server.get("/entries/").json == {"entries": ["gate", "data"]}


def assert_alive_but_not_ready(server: Server) -> None:
    assert [server.get(path).status for path in PROBES] == [200, 503, 200]


def test_a_database_that_is_down(fleet: Fleet, serve: Any) -> None:
    """Every probe is answered, and the page does not name the database's address."""
    port = str(free_port())
    server = serve(database_settings={"PORT": port})
    assert_alive_but_not_ready(server)
    wait_until(lambda: "is not ready" in server.replica.stderr)
    assert_alive_but_not_ready(server)
    held = server.get("/entries/")
    assert held.status == 503
    assert port not in held.body


def test_a_role_that_is_unknown(database: Database, serve: Any, role: str) -> None:
    """An unknown role is an error at once, until an administrator creates it."""
    database.rows(f"ALTER ROLE {role} RENAME TO {role}_later")
    server = serve(database_settings={"USER": role}, safe_init={"SERVE": "initialize"})
    health = server.wait_for(lambda answer: answer.json["state"] == "error")
    assert health.json["error"] == "initialization failed"
    assert server.get(STATUS).json["state"] == "error"
    assert role not in health.body + server.get("/", BROWSER).body
    database.rows(f"ALTER ROLE {role}_later RENAME TO {role}")
    database.rows(f"GRANT CREATE ON SCHEMA public TO {role}")
    server.wait_until_ready()


def test_a_database_that_never_answers(serve: Any, black_hole: int) -> None:
    """Probes are answered before a connection attempt runs into its timeout, and afterwards."""
    server = serve(database_settings={"PORT": str(black_hole)})
    assert_alive_but_not_ready(server)
    assert "is not ready" not in server.replica.stderr
    wait_until(lambda: "is not ready" in server.replica.stderr)
    assert_alive_but_not_ready(server)


def test_no_request_opens_a_connection(
    fleet: Fleet, database: Database, serve: Any
) -> None:
    """Requests open no connection once ready, and only polls open one before."""
    server = serve()
    before, started = database.sessions(), time.monotonic()
    for path in (*PROBES, "/sync/") * 100:
        server.get(path)
    polls = database.sessions() - before
    # At least a second is between two polls.
    assert 1 <= polls <= 2 + time.monotonic() - started
    assert fleet.run("safe_migrate").wait() == 0
    server.wait_until_ready()
    before = database.sessions()
    for path in (*PROBES, "/sync/"):
        assert {each.status for each in server.get_often(path, 100)} == {200}
    assert database.sessions() == before
