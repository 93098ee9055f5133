"""The middleware: what it answers, holds back and lets through, and that it asks nobody."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory

from django_safe_init.exceptions import ConfigurationError
from django_safe_init.middleware import InitializationMiddleware
from django_safe_init.serving.background import supervisor
from django_safe_init.serving.background.readiness import readiness
from django_safe_init.status import Status, StatusDetail
from tests.support import validate_json
from tests.unit.conftest import BEHIND, READY, report, status_of
from tests.unit.snapshots import ended, run_row, snapshot

MIGRATING = status_of(
    snapshot(
        run_row(17, message="shop.0002_secret"), missing=("shop.0002_secret",)
    )._replace(leader_pid=99)
)
FAILED = status_of(snapshot(ended(18, "failed"), missing=("shop.0002_secret",)))
BEHIND_STATUS = status_of(BEHIND)
PATHS = {"live": "/health/live", "ready": "/health/db", "status": "/api/db/status"}
HTML = {"accept": "text/html,*/*;q=0.8"}
TOKEN = {"authorization": "Bearer s3cret"}
factory = RequestFactory()


def project(request: HttpRequest) -> HttpResponse:
    """The rest of the project."""
    return HttpResponse("the project")


def ask(path: str, method: str = "GET", **kwargs: Any) -> HttpResponse:
    """What the middleware, under a sync server, says to a request."""
    middleware = InitializationMiddleware(project)
    return middleware(factory.generic(method, path, **kwargs))


def ask_async(path: str, method: str = "GET", **kwargs: Any) -> HttpResponse:
    """The same under an async server."""

    async def get_response(request: HttpRequest) -> HttpResponse:
        return project(request)

    async def answer() -> HttpResponse:
        middleware = InitializationMiddleware(get_response)
        return await middleware(AsyncRequestFactory().generic(method, path, **kwargs))

    return asyncio.run(answer())


BOTH = pytest.mark.parametrize("ask", [ask, ask_async], ids=["sync", "async"])


# Ready, and not


@BOTH
def test_ready(set_statuses, ask) -> None:
    """Once ready, every request is the project's, and the paths say so."""
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
    """Until then the project gets no request; live and status are 200, readiness is 503."""
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
    """Unknown is not ready: a probe is answered at once, a request after a short wait."""
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
def test_a_visitor_without_a_server(set_statuses, settings, monkeypatch, ask) -> None:
    """Django's test client, in a shell, is held back too, and makes nobody initialize."""
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
    """The first news of a process are waited for, so that it turns nobody away needlessly."""
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
    """What is exempt is the project's at any time."""
    set_statuses(MIGRATING)
    settings.SAFE_INIT = {**settings.SAFE_INIT, "EXEMPT_PATHS": ["/static/", "/legal"]}
    for path in ("/static/x.css", "/legal", "/legal/terms"):
        assert ask(path).content == b"the project"
    assert ask("/staticfiles").status_code == 503


def test_own_paths(set_statuses, settings) -> None:
    """PATHS are where the answers are, and None answers nothing."""
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
    """Paths are below the prefix that the server mounts the project at."""
    set_statuses(MIGRATING)
    assert ask("/health/live", SCRIPT_NAME="/shop").status_code == 200


# How it may be asked


@BOTH
@pytest.mark.parametrize("path", PATHS.values())
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "x"])
def test_other_methods(set_statuses, ask, path, method) -> None:
    """The paths may be read, and nothing else."""
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
def test_every_method_is_held_back(set_statuses, method) -> None:
    """Whatever a request wants to do, it comes too early."""
    set_statuses(MIGRATING)
    assert ask("/cart/", method).status_code == 503


@pytest.mark.parametrize("path", [*PATHS.values(), "/cart/"])
@pytest.mark.parametrize("status", [READY, FAILED])
def test_nobody_keeps_an_answer(set_statuses, path, status) -> None:
    """No answer of ours is stored by a cache."""
    set_statuses(status)
    if (status, path) != (READY, "/cart/"):
        assert ask(path)["Cache-Control"] == "no-store, private"


def test_for_scripts_of_other_origins(set_statuses, settings) -> None:
    """Public bodies may be read by every page's scripts, those for the token by none."""
    set_statuses(MIGRATING)
    settings.SAFE_INIT = {**settings.SAFE_INIT, "STATUS_TOKEN": "s3cret"}
    for path in (*PATHS.values(), "/cart/"):
        assert ask(path)["Access-Control-Allow-Origin"] == "*"
    for path in ("/health/db", "/api/db/status"):
        assert "Access-Control-Allow-Origin" not in ask(path, headers=TOKEN)


def test_the_host_is_nobodys_business(set_statuses, settings, monkeypatch) -> None:
    """A pod's IP address as Host is answered, and neither host nor body is looked at."""

    def fail(*args: object) -> None:
        raise AssertionError("was looked at")

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
    """The worst decides; one may be asked for by its alias."""
    set_statuses(READY, Status("other", MIGRATING.state, 40, "", run=MIGRATING.run))
    assert json.loads(ask("/health/db").content)["progress"] == 40
    assert ask("/health/db?database=default").status_code == 200
    assert ask("/health/db?database=other").status_code == 503
    assert json.loads(ask("/api/db/status?database=other").content)["progress"] == 40
    assert ask("/cart/").status_code == 503


@pytest.mark.parametrize("path", ["/health/db", "/api/db/status"])
def test_an_unknown_alias(set_statuses, path) -> None:
    """An alias that is none is 404, and is not repeated."""
    set_statuses(READY)
    response = ask(f"{path}?database=nowhere")
    assert response.status_code == 404
    assert json.loads(response.content)["title"] == "Not Found"
    assert b"nowhere" not in response.content


# The token


@pytest.mark.parametrize("path", ["/health/db", "/api/db/status"])
def test_with_the_token(set_statuses, settings, path) -> None:
    """The token adds everything there is to know, for each database."""
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
    """Where no token is set, none opens anything."""
    set_statuses(FAILED)
    for value in ("Bearer ", "Bearer", "Bearer s3cret"):
        answer = ask("/api/db/status", headers={"authorization": value})
        assert list(json.loads(answer.content)) == ["state", "progress", "message"]


# The page


@BOTH
def test_the_page(set_statuses, ask) -> None:
    """A browser gets the page, with the way back to the URL that it wanted."""
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


def views_of(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the page is asked to show from now on."""
    from django_safe_init.serving.http import page

    shown: list[Any] = []

    def render(view: Any) -> HttpResponse:
        shown.append(view)
        return HttpResponse("the page")

    monkeypatch.setattr(page, "render", render)
    return shown


def test_what_the_page_shows(set_statuses, monkeypatch) -> None:
    """Of a run at work: how far it is, since when, and how long ago it gave a sign of life."""
    shown = views_of(monkeypatch)
    set_statuses(MIGRATING)
    held = ask("//evil.example/", headers=HTML, SCRIPT_NAME="")
    [view] = shown
    assert (view.state, view.run, view.done, view.total) == ("migrating", 17, 3, 14)
    assert (view.progress, view.elapsed_seconds, view.silence_seconds) == (
        21,
        12.3,
        0.5,
    )
    assert (view.status_url, view.debug) == ("/api/db/status", None)
    assert view.refresh_seconds == int(held["Retry-After"])
    assert view.remaining_seconds is None


def test_the_page_shows_an_estimate(set_statuses, monkeypatch) -> None:
    """Where earlier runs of the same steps were timed, the page says what is left."""
    shown = views_of(monkeypatch)
    set_statuses(MIGRATING, Status("other", READY.state, 100, ""))
    readiness.update(StatusDetail(MIGRATING, remaining_seconds=42.5))
    ask("/cart/", headers=HTML)
    assert [view.remaining_seconds for view in shown] == [42.5]


def test_what_the_page_shows_without_a_run_at_work(
    set_statuses, monkeypatch, settings
) -> None:
    """Without one there are no numbers, and the error has that of its run."""
    shown = views_of(monkeypatch)
    set_statuses(FAILED)
    settings.SAFE_INIT = {**settings.SAFE_INIT, "PATHS": {"status": None}}
    ask("/cart/", headers=HTML)
    set_statuses(BEHIND_STATUS)
    ask("/cart/", headers=HTML)
    failed, behind = shown
    assert (failed.state, failed.run, failed.total) == ("error", 18, 0)
    assert failed.elapsed_seconds is failed.silence_seconds is failed.status_url is None
    assert (behind.state, behind.run) == ("not_initialized", None)


def test_the_page_of_the_status(set_statuses, monkeypatch) -> None:
    """The page of the status itself polls the URL that was asked for, and leads home."""
    shown = views_of(monkeypatch)
    set_statuses(READY)
    ask("/api/db/status?database=default", headers=HTML)
    [view] = shown
    assert view.status_url == "/api/db/status?database=default"
    assert (view.state, view.continue_url) == ("ready", "/")


def test_the_page_with_debug(set_statuses, monkeypatch, settings) -> None:
    """With DEBUG the page names the pending migrations, the command, the error and the leader."""
    shown = views_of(monkeypatch)
    set_statuses(FAILED, Status("other", BEHIND_STATUS.state, 0, ""))
    settings.DEBUG = True
    ask("/cart/", headers=HTML)
    set_statuses(BEHIND_STATUS)
    ask("/cart/", headers=HTML)
    failed, behind = (view.debug for view in shown)
    assert failed.pending == ("shop.0002_secret",)
    assert failed.command == "python manage.py safe_migrate"
    assert (failed.error, failed.leader) == ("ValueError: it broke", "web-1:77")
    assert (behind.error, behind.leader) == (None, None)


def test_the_readers_language(set_statuses, monkeypatch) -> None:
    """The text is in the reader's language, not in that of the thread's last request."""
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


# Where it is not used


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
    """Switched off, and in a project's own tests, the middleware is not used at all."""
    settings.SAFE_INIT = safe_init
    with pytest.raises(MiddlewareNotUsed):
        InitializationMiddleware(project)


def test_initialize_gates_too(set_statuses, settings) -> None:
    """SERVE = "initialize" holds requests back like "gate" does."""
    set_statuses(MIGRATING)
    settings.SAFE_INIT = {**settings.SAFE_INIT, "SERVE": "initialize"}
    assert ask("/cart/").status_code == 503


def test_wrong_settings(settings) -> None:
    """A server with wrong settings does not start."""
    settings.SAFE_INIT = {"SERVE": "maybe"}
    with pytest.raises(ConfigurationError, match="SERVE"):
        InitializationMiddleware(project)


def test_a_project_without_the_middleware(client, settings) -> None:
    """A project's own tests, with the middleware in place, see nothing of it."""
    settings.MIDDLEWARE = ["django_safe_init.middleware.InitializationMiddleware"]
    settings.ROOT_URLCONF = "tests.unit.urls"
    assert client.get("/up").content == b"the project"
    assert readiness.status("default") is None


@pytest.mark.parametrize("path", ["/cart/", "/health/db"])
def test_not_an_error_of_the_project(
    set_statuses, client, settings, caplog, path
) -> None:
    """Django logs no error for an answer of ours, and so mails none to ADMINS."""
    settings.ROOT_URLCONF = "tests.unit.urls"
    settings.MIDDLEWARE = ["django_safe_init.middleware.InitializationMiddleware"]
    set_statuses(BEHIND_STATUS)
    assert client.get(path).status_code == 503
    assert [record.name for record in caplog.records] == []


def test_retry_after_is_jittered(set_statuses) -> None:
    """A crowd that was turned away does not come back in the same second."""
    set_statuses(MIGRATING)
    seconds = {ask("/cart/")["Retry-After"] for _ in range(100)}
    assert seconds == {"2", "3", "4", "5"}


@BOTH
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_form_that_is_held_back(set_statuses, ask, method) -> None:
    """Its page says that it is lost, and does not lead elsewhere by itself."""
    set_statuses(BEHIND_STATUS)
    assert b"data-stays" in ask("/cart/", method, headers=HTML).content
    assert b"data-stays" not in ask("/cart/", headers=HTML).content


@BOTH
def test_the_status_for_who_came_for_it(set_statuses, ask) -> None:
    """A browser that opens the status when all is ready stays there."""
    set_statuses(BEHIND_STATUS)
    assert b"data-stays" not in ask("/api/db/status", headers=HTML).content
    report(READY)
    assert b"data-stays" in ask("/api/db/status", headers=HTML).content


@BOTH
def test_what_an_answer_depends_on(set_statuses, ask) -> None:
    """No cache may keep one; those that differ by form and language say so, too."""
    set_statuses(BEHIND_STATUS)
    for path in ("/health/live", "/health/db", "/api/db/status", "/cart/"):
        assert ask(path)["Cache-Control"] == "no-store, private"
    for path in ("/api/db/status", "/cart/"):
        assert {"Accept", "Accept-Language"} <= set(ask(path)["Vary"].split(", "))
    assert "Vary" not in ask("/health/db")
