"""Web servers of a project on an engine without a leader lock: MariaDB."""

from __future__ import annotations

import pytest

from tests.mariadb import MariaDatabase
from tests.processes.harness import Fleet
from tests.serving.harness import BROWSER, LIVE, READY, STATUS, gunicorn
from tests.support import SqliteDatabase


@pytest.mark.parametrize("serve", ["gate", "initialize"])
def test_blocked_until_ready(
    mariadb_fleet: Fleet, mariadb: MariaDatabase, serve: str
) -> None:
    """Requests are blocked until another process has migrated; the web process only reads."""
    mariadb_fleet.use(safe_init={"SERVE": serve})
    server = gunicorn(mariadb_fleet, workers=2)
    server.wait_for(lambda answer: answer.json["state"] == "uninitialized")
    assert server.get(LIVE).status == 200
    assert server.get("/entries/").status == 503
    # The other worker may not have polled yet.
    server.wait_for(lambda answer: answer.json["state"] == "not_initialized", STATUS)
    page = server.get("/entries/", BROWSER)
    assert (page.status, "<html" in page.body) == (503, True)
    assert not mariadb.has_table("django_migrations")
    migrate = mariadb_fleet.run("migrate")
    assert migrate.wait() == 0, migrate
    server.wait_until_ready(2)
    assert server.get("/entries/").json == {"entries": ["data"]}
    assert server.get(STATUS).json["progress"] == 100
    server.end()
    assert "Initializing in the background" not in server.replica.stderr


def test_beside_another_engine(
    lite_fleet: Fleet, lite: SqliteDatabase, mariadb: MariaDatabase
) -> None:
    """With SERVE "initialize" only the database with a lock is initialized."""
    lite_fleet.use(
        databases={"other": mariadb},
        safe_init={"SERVE": "initialize", "DATABASES": ["default", "other"]},
    )
    server = gunicorn(lite_fleet)
    ready = f"{READY}?database=default"
    server.wait_for(lambda answer: answer.status == 200, ready)
    assert len(lite.applied_once()) == 5
    assert server.get(f"{READY}?database=other").status == 503
    assert server.get("/entries/").status == 503
    assert not mariadb.has_table("django_migrations")
    migrate = lite_fleet.run("migrate", "--database=other")
    assert migrate.wait() == 0, migrate
    server.wait_until_ready()
    server.end()
