"""Health and status as routes of a project without the middleware."""

from __future__ import annotations

import importlib

import pytest
from django.test import Client, RequestFactory
from django.urls import clear_url_caches, reverse

from django_safe_init import urls
from django_safe_init.serving.background.readiness import readiness
from django_safe_init.serving.http import views
from tests.unit.conftest import BEHIND, READY, report, status_of


@pytest.fixture(autouse=True)
def routes(settings):
    """Routes of a project that includes our URLs and has no middleware."""
    settings.ROOT_URLCONF = "tests.unit.urls"
    settings.ALLOWED_HOSTS = ["testserver"]


def test_routes() -> None:
    """The routes are the paths of PATHS, by name."""
    names = ("live", "ready", "status")
    assert [reverse(f"safe_init:{name}") for name in names] == [
        "/health/live",
        "/health/db",
        "/api/db/status",
    ]


def test_own_routes(settings) -> None:
    """PATHS moves the routes, and None removes one."""
    settings.SAFE_INIT = {"PATHS": {"live": "/up", "status": None}}
    try:
        found = importlib.reload(urls).urlpatterns
        assert [str(each.pattern) for each in found] == ["up", "health/db"]
    finally:
        settings.SAFE_INIT = {}
        importlib.reload(urls)
        clear_url_caches()


def test_the_same_responses(set_statuses, client) -> None:
    """The views respond as the middleware does."""
    set_statuses(status_of(BEHIND))
    assert client.get("/health/live").json() == {"status": "alive"}
    health = client.get("/health/db")
    assert (health.status_code, health.json()["state"]) == (503, "uninitialized")
    assert client.get("/api/db/status").json()["state"] == "not_initialized"
    assert client.post("/health/db").status_code == 405
    report(READY)
    assert client.get("/health/db").status_code == 200


def test_no_response_is_sniffed(set_statuses, client, settings) -> None:
    """No browser guesses the type of a response, with `ConditionalGetMiddleware` too."""
    settings.MIDDLEWARE = ["django.middleware.http.ConditionalGetMiddleware"]
    set_statuses(READY)
    for path in (
        "/health/live",
        "/health/db",
        "/api/db/status",
        "/health/db?database=x",
    ):
        for method in ("get", "head", "post", "options"):
            response = getattr(client, method)(path, headers={"if-none-match": "*"})
            assert response["X-Content-Type-Options"] == "nosniff", (path, method)
            assert response.status_code != 304


def test_no_transaction_and_no_login(set_statuses, client, settings) -> None:
    """The views open no transaction and need no login, whatever the project's defaults."""
    settings.MIDDLEWARE = ["django.contrib.auth.middleware.LoginRequiredMiddleware"]
    set_statuses(READY)
    for view in (urls.views.live, urls.views.ready, urls.views.status):
        assert view._non_atomic_requests == {"default"}
        assert view.login_required is False


def test_in_a_projects_own_tests(client, settings) -> None:
    """In a project's own tests the views say that all is ready, and no poller starts."""
    settings.SAFE_INIT = {}
    assert client.get("/health/db").json()["state"] == "ready"
    assert client.get("/api/db/status").json()["progress"] == 100
    assert readiness.status("default") is None


def test_of_a_server(set_statuses, settings, monkeypatch) -> None:
    """A request to a server starts the supervisor; a request of the test client does not."""
    watched = []
    monkeypatch.setattr(readiness, "start", lambda: watched.append(1))
    Client().get("/health/live")
    assert watched == []
    assert views.live(RequestFactory().get("/health/live")).status_code == 200
    assert watched == [1]
