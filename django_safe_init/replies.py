"""The HTTP responses: each is made of what is known, and waits for nothing."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import get_script_prefix
from django.utils import translation

from django_safe_init import answers, pages
from django_safe_init.asking import chosen, has_token, own_url, wants_page
from django_safe_init.conf import Settings, get_settings, in_foreign_tests
from django_safe_init.lookout import unreachable
from django_safe_init.readiness import readiness
from django_safe_init.scene import Scene
from django_safe_init.states import State
from django_safe_init.status import Status

Reply = Callable[[HttpRequest], HttpResponse]

_METHODS = ("GET", "HEAD")
_PROBLEM = "application/problem+json"
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


@_published
def live(request: HttpRequest) -> HttpResponse:
    """Whether this process answers: 200, whatever the database does."""
    return _json({"status": "alive"})


@_published
def ready(request: HttpRequest) -> HttpResponse:
    """Whether this build is ready: 200 or 503."""
    settings = get_settings()
    scenes = _scenes(settings, chosen(request, settings.databases))
    if not scenes:
        return _no_such_database()
    found = _worst(scenes)
    response = _told(request, settings, answers.health(found), scenes)
    if not found.ready:
        response.status_code = 503
        response["Retry-After"] = _retry_after(found)
    return response


@_published
def status(request: HttpRequest) -> HttpResponse:
    """How far the initialization is: JSON, or the page for a browser; 200 in every state."""
    settings = get_settings()
    scenes = _scenes(settings, chosen(request, settings.databases))
    if not scenes:
        return _no_such_database()
    found = _worst(scenes)
    with _language_of(request):
        if wants_page(request):
            seconds, home = _retry_after(found), get_script_prefix()
            return pages.page(scenes, own_url(request), home, seconds)
        return _told(request, settings, answers.public_status(found), scenes)


def hold(request: HttpRequest) -> HttpResponse:
    """For a request that came too early: 503, as a page or as a problem."""
    settings = get_settings()
    scenes = _scenes(settings, settings.databases)
    found = _worst(scenes)
    seconds = _retry_after(found)
    with _language_of(request):
        if wants_page(request):
            path = settings.paths["status"]
            url = path and get_script_prefix().rstrip("/") + path
            response = pages.page(scenes, url, own_url(request), seconds)
        else:
            response = _json(answers.problem(found), _PROBLEM)
    response.status_code = 503
    response["Retry-After"] = seconds
    return _finished(request, response)


def _scenes(settings: Settings, aliases: Sequence[str]) -> list[Scene]:
    if in_foreign_tests(settings):  # whose databases the test runner has made
        return [Scene(Status(alias, State.READY, 100, "")) for alias in aliases]
    return [readiness.scene(alias) or Scene(unreachable(alias)) for alias in aliases]


def _worst(scenes: Sequence[Scene]) -> Status:
    return answers.worst([scene.status for scene in scenes])


def _told(
    request: HttpRequest,
    settings: Settings,
    body: answers.Body,
    scenes: Sequence[Scene],
) -> HttpResponse:
    if not has_token(request, settings.status_token):
        return _json(body)
    response = _json({**body, **answers.details(scenes)})
    del response["Access-Control-Allow-Origin"]
    return response


def _json(body: answers.Body, content_type: str = "application/json") -> HttpResponse:
    # What is public may be read by the scripts of every page.
    headers = {"Access-Control-Allow-Origin": "*"}
    return JsonResponse(body, content_type=content_type, headers=headers)


def _no_such_database() -> HttpResponse:
    body = {"type": "about:blank", "title": "Not Found", "status": 404}
    response = _json(body, _PROBLEM)
    response.status_code = 404
    return response


def _retry_after(found: Status) -> int:
    return random.randint(*_RETRY.get(found.state, _RETRY_OTHERWISE))


def _language_of(request: HttpRequest) -> translation.override:
    """The reader's: the thread's may be that of another request."""
    return translation.override(translation.get_language_from_request(request))


def _finished(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    response["Cache-Control"] = "no-store"
    response["Content-Length"] = len(response.content)
    if request.method == "HEAD":
        response.content = b""
    return response
