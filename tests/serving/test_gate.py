"""Web servers that start before their database is initialized."""

from __future__ import annotations

from typing import Any

import pytest

from example_project.embedded import free_port
from tests.processes.harness import Fleet
from tests.serving.harness import BROWSER, LIVE, READY, STATUS, Server
from tests.support import Database

ALL = (LIVE, READY, STATUS, "/entries/")
#: Texts that a response without the token must not contain.
SECRETS = ("shop.", "0002", "gate", "pid", "no price", "ValueError", "postgres")


@pytest.mark.smoke
def test_blocked_until_ready(fleet: Fleet, database: Database, serve: Any) -> None:
    """Requests are blocked before and while a leader migrates, and served afterwards."""
    server = serve(scenario="gated")
    assert server.get(LIVE).status == 200
    assert server.wait_for(lambda answer: "uninitialized" in answer.body).status == 503
    leader = fleet.start("safe_migrate", scenario="gated")
    fleet.wait_for_note("inside")
    # The known status may be a second old, with no step done.
    migrating = server.wait_for(lambda answer: answer.json.get("progress"))
    assert migrating.json["state"] == "migrating"
    assert migrating.json["status"] == "initializing"
    assert migrating.json["progress"] < 100
    assert server.get(STATUS).json["state"] == "migrating"
    held = server.get("/entries/")
    assert (held.status, held.json["status"]) == (503, 503)
    assert held.headers["content-type"] == "application/problem+json"
    page = server.get("/entries/?a=b", BROWSER)
    assert page.status == 503
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert server.post("/entries/").status == 503
    fleet.allow()
    assert leader.wait() == 0, leader
    ready = server.wait_for(lambda answer: answer.status == 200)
    assert ready.json == {"status": "healthy", "state": "ready", "initialized": True}
    assert server.get("/entries/").json == {"entries": ["gate", "data"]}
    assert server.get(STATUS).json["progress"] == 100
    assert server.get(LIVE).status == 200


def test_a_failed_run(fleet: Fleet, serve: Any) -> None:
    """The public status has the number of a failed run; the token unlocks its error."""
    fleet.allow()
    fleet.use(scenario="failing")
    assert fleet.run("safe_migrate").wait() == 1
    server = serve(env={"SAFE_INIT_STATUS_TOKEN": "schlüssel"})
    health = server.wait_for(lambda answer: answer.json["state"] == "error")
    assert (health.status, health.json["status"]) == (503, "unhealthy")
    assert health.json["error"] == "initialization failed, run 1"
    assert server.get(LIVE).status == 200
    answers = [server.get(path) for path in ALL]
    answers += [server.get(path, BROWSER) for path in ALL]
    text = " ".join(f"{answer.body} {answer.headers}" for answer in answers)
    assert [secret for secret in SECRETS if secret in text] == []
    token = {"Authorization": "Bearer schlüssel".encode()}
    [told] = server.get(READY, token).json["databases"]
    assert "product 7 has no price" in told["error"]
    assert told["pending"] == ["shop.0002_failing"]
    assert told["steps"][-1]["name"] == "shop.0002_failing"
    assert told["steps"][-1]["outcome"] == "failed"


def project_with(kind: str) -> dict[str, Any]:
    """Return the settings of a project that would respond to a probe in another way."""
    redirect = "django.middleware.security.SecurityMiddleware"
    return {
        "host": {"project": {"ALLOWED_HOSTS": ["shop.example"]}},
        "redirect": {
            "project": {
                "SECURE_SSL_REDIRECT": True,
                "MIDDLEWARE": [Server.MIDDLEWARE, redirect],
            }
        },
        "atomic": {"database_settings": {"ATOMIC_REQUESTS": True}},
        "slash": {
            "project": {
                "MIDDLEWARE": [
                    Server.MIDDLEWARE,
                    "django.middleware.common.CommonMiddleware",
                ]
            }
        },
    }[kind]


@pytest.mark.parametrize("kind", ["host", "redirect", "atomic", "slash"])
def test_other_middleware(fleet: Fleet, serve: Any, kind: str) -> None:
    """The endpoints respond before host checks, redirects, slashes and ATOMIC_REQUESTS."""
    assert fleet.run("safe_migrate").wait() == 0
    server = serve(**project_with(kind))
    server.wait_until_ready()
    for path in (LIVE, READY, STATUS):
        answer = server.get(path, {"Host": "10.1.2.3:8000"})
        assert (answer.status, "location" in answer.headers) == (200, False)


def test_atomic_requests_without_a_database(fleet: Fleet, serve: Any) -> None:
    """With the database down, ATOMIC_REQUESTS turns no response into an error."""
    port = str(free_port())
    settings = {"ATOMIC_REQUESTS": True, "PORT": port}
    middleware: dict[str, Any] = {"project": {"MIDDLEWARE": []}}
    for options in ({}, middleware):
        server = serve(database_settings=settings, **options)
        codes = [server.get(path).status for path in (LIVE, READY, STATUS)]
        assert codes == [200, 503, 200]


def test_exempt(serve: Any) -> None:
    """An exempt path is served although the database is not ready."""
    server = serve(safe_init={"EXEMPT_PATHS": ["/sync/"]})
    assert server.get("/sync/").body == "sync"
    assert server.get("/entries/").status == 503


@pytest.mark.parametrize("safe_init", [{"SERVE": "off"}, {"MODE": "off"}])
def test_switched_off(serve: Any, safe_init: dict[str, str]) -> None:
    """A middleware that is switched off does nothing: the project's routes respond."""
    server = serve(safe_init=safe_init)
    assert server.get("/sync/").status == 200
    assert server.get(LIVE).status == 200  # from the project's own routes
    assert server.get("/health/live/").status == 404


@pytest.mark.parametrize("path", [LIVE, READY, STATUS, "/entries/"])
@pytest.mark.parametrize("headers", [{}, BROWSER])
def test_head(serve: Any, path: str, headers: dict[str, str]) -> None:
    """HEAD has a length and no body, also on the wire."""
    server = serve()
    answer = server.request("HEAD", path, headers)
    assert answer.body == ""
    assert int(answer.headers["content-length"]) > 0
