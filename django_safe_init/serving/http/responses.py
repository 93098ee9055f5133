"""The HTTP responses: each is made of what is known, and waits for nothing."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import get_script_prefix
from django.utils import translation
from django.utils.cache import patch_vary_headers

from django_safe_init.conf import Settings, get_settings, in_project_tests
from django_safe_init.core.states import State
from django_safe_init.serving.background.readiness import readiness
from django_safe_init.serving.http import page, payloads
from django_safe_init.serving.http.request_parsing import (
    is_authorized,
    prefers_html,
    same_site_url,
    selected_databases,
)
from django_safe_init.status import Status, StatusDetail

Reply = Callable[[HttpRequest], HttpResponse]

_METHODS = ("GET", "HEAD")
#: What the answers depend on that are not the same for all: the form, the language, the token.
_DEPENDS_ON = ("Accept", "Accept-Language", "Cookie", "Authorization")
_JSON = "application/json"
_PROBLEM = "application/problem+json"
#: What is public may be read by the scripts of every page.
_PUBLIC = {"Access-Control-Allow-Origin": "*"}
#: Made once: a fleet of probes asks every few seconds for as long as the process lives.
_HEALTHY = json.dumps(payloads.HEALTHY).encode()
#: After how many seconds to ask again: random, so that a crowd does not come back at once.
_RETRY = {State.CONNECTING: (1, 3), State.ERROR: (10, 30)}
_RETRY_OTHERWISE = (2, 5)


def _published(reply: Reply) -> Reply:
    """The reply of a URL of ours, which is there to be read."""

    @functools.wraps(reply)
    def published(request: HttpRequest) -> HttpResponse:
        if request.method in _METHODS:
            return _finished(request, reply(request))
        headers = {"Allow": ", ".join(_METHODS)}
        return _finished(request, HttpResponse(status=405, headers=headers))

    return published


class RequestContext(NamedTuple):
    """What this process knows of the databases that a request is about."""

    settings: Settings
    scenes: list[StatusDetail]
    worst: Status


def _asked(reply: Callable[[HttpRequest, RequestContext], HttpResponse]) -> Reply:
    """The reply about the databases that the request names."""

    @functools.wraps(reply)
    def asked(request: HttpRequest) -> HttpResponse:
        settings = get_settings()
        aliases = selected_databases(request, settings.databases)
        if not aliases:
            return _no_such_database()
        return reply(request, _news(settings, aliases))

    return asked


@_published
def live(request: HttpRequest) -> HttpResponse:
    """Whether this process answers: 200, whatever the database does."""
    return _json({"status": "alive"})


@_published
def ready(request: HttpRequest) -> HttpResponse:
    """Whether this build is ready: 200 or 503."""
    asks_more = request.META.get("QUERY_STRING") or "HTTP_AUTHORIZATION" in request.META
    if readiness.complete and not asks_more:
        return HttpResponse(_HEALTHY, content_type=_JSON, headers=_PUBLIC)
    return _ready(request)


@_asked
def _ready(request: HttpRequest, news: RequestContext) -> HttpResponse:
    response = _told(request, news, payloads.health(news.worst))
    if not news.worst.ready:
        response.status_code = 503
        response["Retry-After"] = _retry_after(news)
    return response


@_published
@_asked
def status(request: HttpRequest, news: RequestContext) -> HttpResponse:
    """How far the initialization is: JSON, or the page for a browser; 200 in every state."""
    with _language_of(request):
        if prefers_html(request):
            seconds, home = _retry_after(news), get_script_prefix()
            response = page.page(
                news.scenes, same_site_url(request), home, seconds, own=True
            )
        else:
            response = _told(request, news, payloads.public_status(news.worst))
    patch_vary_headers(response, _DEPENDS_ON)
    return response


def service_unavailable(request: HttpRequest) -> HttpResponse:
    """For a request that came too early: 503, as a page or as a problem."""
    settings = get_settings()
    news = _news(settings, settings.databases)
    seconds = _retry_after(news)
    with _language_of(request):
        if prefers_html(request):
            path = settings.paths["status"]
            url = path and get_script_prefix().rstrip("/") + path
            sent = request.method not in _METHODS
            response = page.page(
                news.scenes, url, same_site_url(request), seconds, sent=sent
            )
        else:
            response = _json(payloads.problem(news.worst), _PROBLEM)
    response.status_code = 503
    response["Retry-After"] = seconds
    patch_vary_headers(response, _DEPENDS_ON)
    return _finished(request, response)


def _news(settings: Settings, aliases: Sequence[str]) -> RequestContext:
    if in_project_tests(settings):  # whose databases the test runner has made
        scenes = [
            StatusDetail(Status(alias, State.READY, 100, "")) for alias in aliases
        ]
    else:
        scenes = [
            readiness.scene(each) or StatusDetail(Status.unreachable(each))
            for each in aliases
        ]
    return RequestContext(
        settings, scenes, payloads.least_ready([scene.status for scene in scenes])
    )


def _told(
    request: HttpRequest, news: RequestContext, body: payloads.Body
) -> HttpResponse:
    if not is_authorized(request, news.settings.status_token):
        return _json(body)
    response = _json({**body, **payloads.details(news.scenes)})
    del response["Access-Control-Allow-Origin"]
    return response


def _json(body: payloads.Body, content_type: str = _JSON) -> HttpResponse:
    return JsonResponse(body, content_type=content_type, headers=_PUBLIC)


def _no_such_database() -> HttpResponse:
    body = {"type": "about:blank", "title": "Not Found", "status": 404}
    response = _json(body, _PROBLEM)
    response.status_code = 404
    return response


def _retry_after(news: RequestContext) -> int:
    return random.randint(*_RETRY.get(news.worst.state, _RETRY_OTHERWISE))


def _language_of(request: HttpRequest) -> translation.override:
    """The reader's: the thread's may be that of another request."""
    return translation.override(translation.get_language_from_request(request))


def _finished(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    # `private`, because Django's own cache has not always heeded `no-store`.
    response["Cache-Control"] = "no-store, private"
    response["Content-Length"] = len(response.content)
    # Else Django logs each 503 as an error of the project, and mails it to ADMINS.
    response._has_been_logged = True  # type: ignore[attr-defined]
    if request.method == "HEAD":
        response.content = b""
    return response
