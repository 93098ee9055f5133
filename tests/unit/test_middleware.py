"""The middleware: its responses, and the requests that it blocks or passes on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory

from django_safe_init import middleware as module
from django_safe_init.exceptions import ConfigurationError
from django_safe_init.middleware import InitializationMiddleware
from django_safe_init.serving.background import supervisor
from django_safe_init.serving.background.readiness import readiness
from django_safe_init.status import Status, StatusDetail
from tests.support import validate_json
from tests.unit.conftest import (
    BEHIND,
    BLOCKED,
    READY,
    report,
    report_blocked,
    status_of,
)
from tests.unit.snapshots import ended_run, run_row, snapshot

MIGRATING = status_of(
    snapshot(
        run_row(17, message="shop.0002_secret"), missing=("shop.0002_secret",)
    )._replace(leader_pid=99)
)
FAILED = status_of(snapshot(ended_run(18, "failed"), missing=("shop.0002_secret",)))
BEHIND_STATUS = status_of(BEHIND)
PATHS = {"live": "/health/live", "ready": "/health/db", "status": "/api/db/status"}
HTML = {"accept": "text/html,*/*;q=0.8"}
TOKEN = {"authorization": "Bearer s3cret"}
factory = RequestFactory()


def project(request: HttpRequest) -> HttpResponse:
    """Return the response of the rest of the project."""
    return HttpResponse("the project")


def ask(path: str, method: str = "GET", **kwargs: Any) -> HttpResponse:
    """Return the middleware's response under a synchronous web server."""
    middleware = InitializationMiddleware(project)
    return middleware(factory.generic(method, path, **kwargs))


def ask_async(path: str, method: str = "GET", **kwargs: Any) -> HttpResponse:
    """Return the middleware's response under an asynchronous web server."""

    async def get_response(request: HttpRequest) -> HttpResponse:
        return project(request)

    async def answer() -> HttpResponse:
        middleware = InitializationMiddleware(get_response)
        return await middleware(AsyncRequestFactory().generic(method, path, **kwargs))

    return asyncio.run(answer())


BOTH = pytest.mark.parametrize("ask", [ask, ask_async], ids=["sync", "async"])


# Ready or not


@BOTH
def test_ready(set_statuses, ask) -> None:
    """Once ready, the project gets every request except those to PATHS."""
    set_statuses(READY)
    assert ask("/cart/").content == b"the project"
    health = ask("/health/db")
    assert (health.status_code, json.loads(health.content)) == (
        200,
        {"status": "healthy", "state": "ready", "initialized": True},
    )
    assert "Retry-After" not in health
    assert json.loads(ask("/api/db/status").content)["state"] == "ready"
    assert json.loads(ask("/health/live").content) == {"status": "alive"}


@BOTH
@pytest.mark.parametrize("status", [BEHIND_STATUS, MIGRATING, FAILED])
def test_not_ready(set_statuses, ask, status) -> None:
    """Until ready, the project gets no request; live and status are 200, readiness is 503."""
    set_statuses(status)
    held = ask("/cart/")
    assert held.status_code == 503
    assert held["Content-Type"] == "application/problem+json"
    assert json.loads(held.content)["status"] == 503
    assert ask("/health/live").status_code == ask("/api/db/status").status_code == 200
    assert ask("/health/db").status_code == 503
    for response in (held, ask("/health/db")):
        assert 1 <= int(response["Retry-After"]) <= 30


@BOTH
def test_nothing_is_known(set_statuses, ask, settings) -> None:
    """Without a known status a probe gets 503 at once, and a request after a short wait."""
    readiness.start()
    health = ask("/health/db")
    assert (health.status_code, json.loads(health.content)["state"]) == (
        503,
        "connecting",
    )
    assert ask("/cart/").status_code == 503
    report(READY)
    assert ask("/cart/").status_code == 200


@pytest.mark.parametrize("ask", [Client, AsyncClient])
def test_djangos_test_client(set_statuses, settings, monkeypatch, ask) -> None:
    """A request of Django's test client is blocked too, and starts no supervisor."""
    monkeypatch.setattr(supervisor, "InitializationSupervisor", None)
    settings.SAFE_INIT = {"IN_TESTS": True, "SERVE": "initialize"}
    settings.ROOT_URLCONF = "tests.unit.urls"
    settings.MIDDLEWARE = ["django_safe_init.middleware.InitializationMiddleware"]
    monkeypatch.setattr(readiness, "install", lambda: None)
    response = ask().get("/cart/")
    if asyncio.iscoroutine(response):
        response = asyncio.run(response)
    assert response.status_code == 503
    assert readiness._polling


@BOTH
def test_the_first_request_of_a_new_worker(set_statuses, ask, monkeypatch) -> None:
    """The first request of a new worker waits for its first status."""
    wait, wait_async = readiness.wait, readiness.wait_async

    def report_and_wait(seconds: float) -> None:
        report(READY)
        wait(seconds)

    async def report_and_await(seconds: float) -> None:
        report(READY)
        await wait_async(seconds)

    monkeypatch.setattr(readiness, "wait", report_and_wait)
    monkeypatch.setattr(readiness, "wait_async", report_and_await)
    assert ask("/cart/").content == b"the project"


@BOTH
def test_exempt_paths(set_statuses, ask, settings) -> None:
    """Requests to exempt paths always reach the project."""
    set_statuses(MIGRATING)
    settings.SAFE_INIT = {**settings.SAFE_INIT, "EXEMPT_PATHS": ["/static/", "/legal"]}
    for path in ("/static/x.css", "/legal", "/legal/terms"):
        assert ask(path).content == b"the project"
    assert ask("/staticfiles").status_code == 503


def test_own_paths(set_statuses, settings) -> None:
    """PATHS moves the endpoints, and None removes one."""
    set_statuses(READY)
    settings.SAFE_INIT = {
        **settings.SAFE_INIT,
        "PATHS": {"live": "/up", "status": None},
    }
    assert ask("/up").content == b'{"status": "alive"}'
    for path in ("/health/live", "/api/db/status"):
        assert ask(path).content == b"the project"
    assert ask("/health/db").status_code == 200


def test_below_a_prefix(set_statuses, settings) -> None:
    """The paths are below the prefix at which the web server mounts the project."""
    set_statuses(MIGRATING)
    assert ask("/health/live", SCRIPT_NAME="/shop").status_code == 200


# Methods and headers


@BOTH
@pytest.mark.parametrize("path", PATHS.values())
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "x"])
def test_other_methods(set_statuses, ask, path, method) -> None:
    """The endpoints accept only GET and HEAD."""
    set_statuses(READY)
    response = ask(path, method)
    assert (response.status_code, response["Allow"]) == (405, "GET, HEAD")
    assert response["Cache-Control"] == "no-store, private"


@BOTH
@pytest.mark.parametrize("path", [*PATHS.values(), "/cart/"])
@pytest.mark.parametrize("headers", [{}, HTML])
def test_head(set_statuses, ask, path, headers) -> None:
    """HEAD has the headers of GET, and no body."""
    set_statuses(FAILED)
    full, empty = ask(path, headers=headers), ask(path, "HEAD", headers=headers)
    assert (empty.status_code, empty.content) == (full.status_code, b"")
    assert int(full["Content-Length"]) == len(full.content) > 0
    assert empty["Content-Type"] == full["Content-Type"]
    assert int(empty["Content-Length"]) > 0


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "x"])
def test_every_method_is_blocked(set_statuses, method) -> None:
    """A request is blocked whatever its method."""
    set_statuses(MIGRATING)
    assert ask("/cart/", method).status_code == 503


@pytest.mark.parametrize("path", [*PATHS.values(), "/cart/"])
@pytest.mark.parametrize("status", [READY, FAILED])
def test_no_response_is_cached(set_statuses, path, status) -> None:
    """No cache may store a response of the middleware."""
    set_statuses(status)
    if (status, path) != (READY, "/cart/"):
        assert ask(path)["Cache-Control"] == "no-store, private"


@BOTH
@pytest.mark.parametrize("status", [READY, MIGRATING, FAILED])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "x"])
def test_no_response_is_sniffed(set_statuses, settings, ask, status, method) -> None:
    """No browser guesses the type of a response: every one says so."""
    set_statuses(status)
    settings.SAFE_INIT = {**settings.SAFE_INIT, "STATUS_TOKEN": "s3cret"}
    paths = [*PATHS.values(), "/health/db?database=unknown"]
    paths += ["/cart/"] if status is not READY else []
    for path in paths:
        for headers in ({}, HTML, TOKEN, {"if-none-match": "*"}):
            response = ask(path, method, headers=headers)
            assert response["X-Content-Type-Options"] == "nosniff", response


def test_for_scripts_of_other_origins(set_statuses, settings) -> None:
    """Scripts of other origins may read public bodies, but none with the token's details."""
    set_statuses(MIGRATING)
    settings.SAFE_INIT = {**settings.SAFE_INIT, "STATUS_TOKEN": "s3cret"}
    for path in (*PATHS.values(), "/cart/"):
        assert ask(path)["Access-Control-Allow-Origin"] == "*"
    for path in ("/health/db", "/api/db/status"):
        assert "Access-Control-Allow-Origin" not in ask(path, headers=TOKEN)


def test_the_host_is_ignored(set_statuses, settings, monkeypatch) -> None:
    """A pod's IP address as Host is accepted; the middleware reads neither host nor body."""

    def fail(*args: object) -> None:
        raise AssertionError("was read")

    set_statuses(MIGRATING)
    settings.ALLOWED_HOSTS = ["shop.example"]
    monkeypatch.setattr(HttpRequest, "get_host", fail)
    monkeypatch.setattr(HttpRequest, "body", property(fail))
    for path in (*PATHS.values(), "/cart/"):
        for headers in ({"host": "10.1.2.3:8000"}, {"host": "::bad::"}, HTML):
            assert ask(path, headers=headers).status_code in (200, 503)
    assert ask("/cart/", "POST", data=b"x" * 1000).status_code == 503


# Several databases


def test_several_databases(set_statuses) -> None:
    """The least ready database decides; `?database=` selects one."""
    set_statuses(READY, Status("other", MIGRATING.state, 40, "", run=MIGRATING.run))
    assert json.loads(ask("/health/db").content)["progress"] == 40
    assert ask("/health/db?database=default").status_code == 200
    assert ask("/health/db?database=other").status_code == 503
    assert json.loads(ask("/api/db/status?database=other").content)["progress"] == 40
    assert ask("/cart/").status_code == 503


@pytest.mark.parametrize("path", ["/health/db", "/api/db/status"])
def test_an_unknown_alias(set_statuses, path) -> None:
    """An unknown alias is 404, and the body does not repeat it."""
    set_statuses(READY)
    response = ask(f"{path}?database=nowhere")
    assert response.status_code == 404
    assert json.loads(response.content)["title"] == "Not Found"
    assert b"nowhere" not in response.content


# The token


@pytest.mark.parametrize("path", ["/health/db", "/api/db/status"])
def test_with_the_token(set_statuses, settings, path) -> None:
    """The token adds the details of each selected database."""
    set_statuses(FAILED, Status("other", READY.state, 100, "done"))
    settings.SAFE_INIT = {**settings.SAFE_INIT, "STATUS_TOKEN": "s3cret"}
    public = json.loads(ask(path).content)
    told = json.loads(ask(path, headers=TOKEN).content)
    validate_json("health" if path == "/health/db" else "status", told)
    databases = told.pop("databases")
    assert told == public
    assert [each["database"] for each in databases] == ["default", "other"]
    assert databases[0]["error"] == "ValueError: it broke"
    assert databases[0]["run"]["id"] == 18
    one = json.loads(ask(f"{path}?database=other", headers=TOKEN).content)
    assert [each["database"] for each in one["databases"]] == ["other"]


def test_without_a_token(set_statuses) -> None:
    """Without a configured token, no token unlocks the details."""
    set_statuses(FAILED)
    for value in ("Bearer ", "Bearer", "Bearer s3cret"):
        answer = ask("/api/db/status", headers={"authorization": value})
        assert list(json.loads(answer.content)) == ["state", "progress", "message"]


# The page


@BOTH
def test_the_page(set_statuses, ask) -> None:
    """A browser gets the page, with a link to the requested URL."""
    set_statuses(MIGRATING)
    held = ask("/cart/?a=1", headers=HTML)
    assert held.status_code == 503
    assert held["Content-Type"] == "text/html; charset=utf-8"
    assert "Content-Security-Policy" in held
    assert "/cart/?a=1" in held.content.decode()
    assert "secret" not in held.content.decode()
    status = ask("/api/db/status", headers=HTML)
    assert status.status_code == 200
    assert status["Content-Type"] == "text/html; charset=utf-8"


def rendered_pages(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the contexts that the page is rendered with."""
    from django_safe_init.serving.http import page as module

    pages: list[Any] = []

    def render(page: Any) -> HttpResponse:
        pages.append(page)
        return HttpResponse("the page")

    monkeypatch.setattr(module, "render", render)
    return pages


def test_the_page_with_an_open_run(set_statuses, monkeypatch) -> None:
    """The page shows the progress, the elapsed time and the last heartbeat of an open run."""
    pages = rendered_pages(monkeypatch)
    set_statuses(MIGRATING)
    held = ask("//evil.example/", headers=HTML, SCRIPT_NAME="")
    [page] = pages
    assert (page.state, page.run, page.done, page.total) == ("migrating", 17, 3, 14)
    assert (page.progress, page.elapsed_seconds, page.silence_seconds) == (
        21,
        12.3,
        0.5,
    )
    assert (page.status_url, page.debug) == ("/api/db/status", None)
    assert page.refresh_seconds == int(held["Retry-After"])
    assert page.remaining_seconds is None


def test_the_page_shows_an_estimate(set_statuses, monkeypatch) -> None:
    """The page shows the remaining time if earlier runs timed the same steps."""
    pages = rendered_pages(monkeypatch)
    set_statuses(MIGRATING, Status("other", READY.state, 100, ""))
    readiness.update(StatusDetail(MIGRATING, remaining_seconds=42.5))
    ask("/cart/", headers=HTML)
    assert [page.remaining_seconds for page in pages] == [42.5]


def test_the_page_without_an_open_run(set_statuses, monkeypatch, settings) -> None:
    """Without an open run the page shows no numbers, except the number of a failed run."""
    pages = rendered_pages(monkeypatch)
    set_statuses(FAILED)
    settings.SAFE_INIT = {**settings.SAFE_INIT, "PATHS": {"status": None}}
    ask("/cart/", headers=HTML)
    set_statuses(BEHIND_STATUS)
    ask("/cart/", headers=HTML)
    failed, behind = pages
    assert (failed.state, failed.run, failed.total) == ("error", 18, 0)
    assert failed.elapsed_seconds is failed.silence_seconds is failed.status_url is None
    assert (behind.state, behind.run) == ("not_initialized", None)


def test_the_page_of_the_status(set_statuses, monkeypatch) -> None:
    """The page of the status polls the requested URL, and leads to the front page."""
    pages = rendered_pages(monkeypatch)
    set_statuses(READY)
    ask("/api/db/status?database=default", headers=HTML)
    [page] = pages
    assert page.status_url == "/api/db/status?database=default"
    assert (page.state, page.continue_url) == ("ready", "/")


def test_the_page_with_debug(set_statuses, monkeypatch, settings) -> None:
    """With DEBUG the page names the pending migrations, the command, the error and the leader."""
    pages = rendered_pages(monkeypatch)
    set_statuses(FAILED, Status("other", BEHIND_STATUS.state, 0, ""))
    settings.DEBUG = True
    ask("/cart/", headers=HTML)
    set_statuses(BEHIND_STATUS)
    ask("/cart/", headers=HTML)
    failed, behind = (page.debug for page in pages)
    assert failed.pending == ("shop.0002_secret",)
    assert failed.command == "python manage.py safe_migrate"
    assert (failed.error, failed.leader) == ("ValueError: it broke", "web-1:77")
    assert (behind.error, behind.leader) == (None, None)


def test_the_readers_language(set_statuses, monkeypatch) -> None:
    """The text is in the reader's language, not in the language of the thread's last request."""
    from django.utils import translation

    from django_safe_init.serving.http import payloads

    class Text:
        def __str__(self) -> str:
            return translation.get_language()

    monkeypatch.setitem(payloads.MESSAGES, "migrating", Text())
    set_statuses(MIGRATING)
    with translation.override("fr"):
        answer = ask("/api/db/status", headers={"accept-language": "de"})
        assert json.loads(answer.content)["message"] == "de"
        assert translation.get_language() == "fr"


# Switched off


@pytest.mark.parametrize(
    "safe_init",
    [
        {},
        {"SERVE": "initialize"},
        {"IN_TESTS": True, "MODE": "off"},
        {"IN_TESTS": True, "SERVE": "off"},
    ],
)
def test_switched_off(settings, safe_init) -> None:
    """The middleware is not used if switched off, and in a project's own tests."""
    settings.SAFE_INIT = safe_init
    with pytest.raises(MiddlewareNotUsed):
        InitializationMiddleware(project)


def test_initialize_gates_too(set_statuses, settings) -> None:
    """SERVE = "initialize" blocks requests as "gate" does."""
    set_statuses(MIGRATING)
    settings.SAFE_INIT = {**settings.SAFE_INIT, "SERVE": "initialize"}
    assert ask("/cart/").status_code == 503


def test_wrong_settings(settings) -> None:
    """A web process with invalid settings does not start."""
    settings.SAFE_INIT = {"SERVE": "maybe"}
    with pytest.raises(ConfigurationError, match="SERVE"):
        InitializationMiddleware(project)


def test_a_projects_own_tests(client, settings) -> None:
    """In a project's own tests the configured middleware does nothing."""
    settings.MIDDLEWARE = ["django_safe_init.middleware.InitializationMiddleware"]
    settings.ROOT_URLCONF = "tests.unit.urls"
    assert client.get("/up").content == b"the project"
    assert readiness.status("default") is None


@pytest.mark.parametrize("path", ["/cart/", "/health/db"])
def test_not_an_error_of_the_project(
    set_statuses, client, settings, caplog, path
) -> None:
    """Django logs no error for a 503 of the middleware, and so mails none to ADMINS."""
    settings.ROOT_URLCONF = "tests.unit.urls"
    settings.MIDDLEWARE = ["django_safe_init.middleware.InitializationMiddleware"]
    set_statuses(BEHIND_STATUS)
    assert client.get(path).status_code == 503
    assert [record.name for record in caplog.records] == []


def test_retry_after_is_jittered(set_statuses) -> None:
    """`Retry-After` differs between responses, so that clients do not return all at once."""
    set_statuses(MIGRATING)
    seconds = {ask("/cart/")["Retry-After"] for _ in range(100)}
    assert seconds == {"2", "3", "4", "5"}


@BOTH
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_form_that_is_blocked(set_statuses, ask, method) -> None:
    """The page for a blocked form opens no URL."""
    set_statuses(BEHIND_STATUS)
    assert b"data-stays" in ask("/cart/", method, headers=HTML).content
    assert b"data-stays" not in ask("/cart/", headers=HTML).content


@BOTH
def test_the_status_page_when_ready(set_statuses, ask) -> None:
    """A browser that requests the status of a ready database stays on its page."""
    set_statuses(BEHIND_STATUS)
    assert b"data-stays" not in ask("/api/db/status", headers=HTML).content
    report(READY)
    assert b"data-stays" in ask("/api/db/status", headers=HTML).content


@BOTH
def test_cache_headers(set_statuses, ask) -> None:
    """`Vary` names the request headers that choose the format and the language."""
    set_statuses(BEHIND_STATUS)
    for path in ("/health/live", "/health/db", "/api/db/status", "/cart/"):
        assert ask(path)["Cache-Control"] == "no-store, private"
    for path in ("/api/db/status", "/cart/"):
        assert {"Accept", "Accept-Language"} <= set(ask(path)["Vary"].split(", "))
    assert "Vary" not in ask("/health/db")


# Tenants


class FakeTenancy:
    """A tenancy that finds the tenant by the host, or by an attribute of the request."""

    alias = "default"

    def host_of(self, request: HttpRequest) -> str | None:
        return request.META.get("HTTP_X_HOST")

    def schema_of(self, request: HttpRequest) -> str | None:
        return getattr(request, "schema", None)


@pytest.fixture
def shared(set_statuses, settings, monkeypatch) -> None:
    """Let the shared schema suffice, with two tenants that are behind."""
    monkeypatch.setattr(module, "get_tenancy", lambda alias: FakeTenancy())
    set_statuses(BEHIND_STATUS)
    settings.SAFE_INIT = {**settings.SAFE_INIT, "TENANT_READINESS": "shared"}


@BOTH
def test_the_host_of_a_tenant(shared, ask) -> None:
    """A request to the host of a tenant that is behind gets 503; others pass."""
    assert ask("/cart/", headers={"x-host": "t0.example"}).status_code == 503
    report_blocked(BLOCKED)
    assert ask("/cart/", headers={"x-host": "t0.example"}).content == b"the project"
    held = ask("/cart/", headers={"x-host": "t1.example"})
    assert (held.status_code, json.loads(held.content)["state"]) == (503, "migrating")
    assert 2 <= int(held["Retry-After"]) <= 5
    assert ask("/health/db", headers={"x-host": "t1.example"}).status_code == 200
    report(READY)
    assert ask("/cart/", headers={"x-host": "t1.example"}).content == b"the project"


def test_the_page_for_a_tenant(shared, monkeypatch) -> None:
    """The page of a tenant reloads itself, because the status says "ready"."""
    pages = rendered_pages(monkeypatch)
    report_blocked(BLOCKED)
    ask("/cart/", headers={**HTML, "x-host": "t1.example"})
    [page] = pages
    assert (page.state, page.sites, page.status_url) == ("migrating", (1, 3), None)
    assert page.continue_url == "/cart/"


@BOTH
def test_exempt_paths_of_a_tenant(shared, ask, settings) -> None:
    """Requests to exempt paths reach the project, also for a tenant that is behind."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "EXEMPT_PATHS": ["/static/"]}
    report_blocked(BLOCKED)
    assert ask("/static/x", headers={"x-host": "t1.example"}).content == b"the project"


def view_result(middleware: Any, schema: str | None, path: str = "/cart/") -> Any:
    """Return what the middleware does before the view of a request of the tenant."""
    request = factory.get(path)
    if schema is not None:
        request.schema = schema  # type: ignore[attr-defined]
    result = middleware.process_view(request, None, (), {})
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


@pytest.mark.parametrize("is_async", [False, True])
def test_the_tenant_that_the_project_has_found(shared, settings, is_async) -> None:
    """Before its view, a request of a tenant that is behind gets 503."""

    async def get_response(request: HttpRequest) -> HttpResponse:
        return project(request)

    settings.SAFE_INIT = {**settings.SAFE_INIT, "EXEMPT_PATHS": ["/static/"]}
    middleware = InitializationMiddleware(get_response if is_async else project)
    report_blocked(BLOCKED)
    assert view_result(middleware, "t1").status_code == 503
    assert view_result(middleware, "t0") is None
    assert view_result(middleware, None) is None
    assert view_result(middleware, "t1", "/static/x") is None
    report(READY)
    assert view_result(middleware, "t1") is None


def test_no_cost_without_tenants(set_statuses, settings, monkeypatch) -> None:
    """Without tenants, or while all of them count, no method is called before a view."""
    set_statuses(READY)
    assert not hasattr(InitializationMiddleware(project), "process_view")
    settings.SAFE_INIT = {**settings.SAFE_INIT, "TENANT_READINESS": "shared"}
    assert not hasattr(InitializationMiddleware(project), "process_view")
    monkeypatch.setattr(module, "get_tenancy", lambda alias: FakeTenancy())
    settings.SAFE_INIT = {**settings.SAFE_INIT, "TENANT_READINESS": "all"}
    assert not hasattr(InitializationMiddleware(project), "process_view")
