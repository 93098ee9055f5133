"""The HTTP responses, built from the known statuses without waiting."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import get_script_prefix
from django.utils import translation
from django.utils.cache import patch_vary_headers

from django_safe_init.conf import Settings, get_settings, in_project_tests
from django_safe_init.core.states import State
from django_safe_init.serving.background.readiness import readiness
from django_safe_init.serving.http import payloads
from django_safe_init.serving.http.page import status_page
from django_safe_init.serving.http.request_parsing import (
    is_authorized,
    preferred_language,
    prefers_html,
    same_site_url,
    selected_databases,
)
from django_safe_init.status import Status, StatusDetail

Responder = Callable[[HttpRequest], HttpResponse]

_METHODS = ("GET", "HEAD")
#: The request headers that choose the format, the language and the details of a response.
_VARY = ("Accept", "Accept-Language", "Cookie", "Authorization")
_JSON = "application/json"
_PROBLEM = "application/problem+json"
#: Scripts of all sites may read public responses.
_PUBLIC = {"Access-Control-Allow-Origin": "*"}
#: Encoded once: probes request it every few seconds for the life of the process.
_HEALTHY = json.dumps(payloads.HEALTHY).encode()
#: The range of seconds for `Retry-After`. Random, so that clients do not return all at once.
_RETRY_AFTER = {State.CONNECTING: (1, 3), State.ERROR: (10, 30)}
_DEFAULT_RETRY_AFTER = (2, 5)


class RequestContext(NamedTuple):
    """The settings, and the known status of each database that a request selects."""

    settings: Settings
    details: list[StatusDetail]
    #: The status that stands for all of them.
    least_ready: Status


def _endpoint(respond: Responder) -> Responder:
    """Decorate a responder so that it answers only GET and HEAD."""

    @functools.wraps(respond)
    def endpoint(request: HttpRequest) -> HttpResponse:
        if request.method in _METHODS:
            return _finalize(request, respond(request))
        headers = {"Allow": ", ".join(_METHODS)}
        return _finalize(request, HttpResponse(status=405, headers=headers))

    return endpoint


def _for_databases(
    respond: Callable[[HttpRequest, RequestContext], HttpResponse],
) -> Responder:
    """Decorate a responder so that it gets the context of the databases in the request."""

    @functools.wraps(respond)
    def for_databases(request: HttpRequest) -> HttpResponse:
        settings = get_settings()
        aliases = selected_databases(request, settings.databases)
        if not aliases:
            return _no_such_database()
        return respond(request, _request_context(settings, aliases))

    return for_databases


@_endpoint
def live(request: HttpRequest) -> HttpResponse:
    """Return 200: this process answers, whatever the state of its databases."""
    return _public_json({"status": "alive"})


@_endpoint
def ready(request: HttpRequest) -> HttpResponse:
    """Return 200 if this build is ready, else 503."""
    selects = request.META.get("QUERY_STRING") or "HTTP_AUTHORIZATION" in request.META
    if readiness.complete and not selects:
        return HttpResponse(_HEALTHY, content_type=_JSON, headers=_PUBLIC)
    return _ready(request)


@_for_databases
def _ready(request: HttpRequest, context: RequestContext) -> HttpResponse:
    response = _json_response(request, context, payloads.health(context.least_ready))
    if not context.least_ready.ready:
        response.status_code = 503
        response["Retry-After"] = _retry_after(context)
    return response


@_endpoint
@_for_databases
def status(request: HttpRequest, context: RequestContext) -> HttpResponse:
    """Return the status: as JSON, or as the page for a browser; 200 in every state."""
    with _language_of(request):
        if prefers_html(request):
            response = status_page(
                context.details,
                same_site_url(request),
                get_script_prefix(),
                _retry_after(context),
                is_status_url=True,
            )
        else:
            body = payloads.public_status(context.least_ready)
            response = _json_response(request, context, body)
    patch_vary_headers(response, _VARY)
    return response


def service_unavailable(request: HttpRequest) -> HttpResponse:
    """Return 503 for a blocked request: as the page for a browser, else as problem details."""
    settings = get_settings()
    path = settings.paths["status"]
    url = path and get_script_prefix().rstrip("/") + path
    return _unavailable(request, _request_context(settings, settings.databases), url)


def tenant_unavailable(request: HttpRequest) -> HttpResponse:
    """Return 503 for a request of a tenant whose schema is behind, while others are served.

    The page loads itself again: the status says that the database is ready.
    """
    settings = get_settings()
    details = [
        replace(detail, status=detail.status.for_tenant)
        for detail in _request_context(settings, settings.databases).details
    ]
    least_ready = payloads.least_ready([detail.status for detail in details])
    return _unavailable(request, RequestContext(settings, details, least_ready), None)


def _unavailable(
    request: HttpRequest, context: RequestContext, status_url: str | None
) -> HttpResponse:
    seconds = _retry_after(context)
    with _language_of(request):
        if prefers_html(request):
            response = status_page(
                context.details,
                status_url,
                same_site_url(request),
                seconds,
                form_was_sent=request.method not in _METHODS,
            )
        else:
            response = _public_json(payloads.problem(context.least_ready), _PROBLEM)
    response.status_code = 503
    response["Retry-After"] = seconds
    patch_vary_headers(response, _VARY)
    return _finalize(request, response)


def _request_context(settings: Settings, aliases: Sequence[str]) -> RequestContext:
    if in_project_tests(settings):  # the test runner has initialized the databases
        details = [
            StatusDetail(Status(alias, State.READY, 100, "")) for alias in aliases
        ]
    else:
        details = [
            readiness.detail(alias) or StatusDetail(Status.unreachable(alias))
            for alias in aliases
        ]
    least_ready = payloads.least_ready([detail.status for detail in details])
    return RequestContext(settings, details, least_ready)


def _json_response(
    request: HttpRequest, context: RequestContext, body: payloads.Body
) -> HttpResponse:
    """Return the public body, with the details if the request carries the token."""
    if not is_authorized(request, context.settings.status_token):
        return _public_json(body)
    response = _public_json({**body, **payloads.details(context.details)})
    del response["Access-Control-Allow-Origin"]
    return response


def _public_json(body: payloads.Body, content_type: str = _JSON) -> HttpResponse:
    return JsonResponse(body, content_type=content_type, headers=_PUBLIC)


def _no_such_database() -> HttpResponse:
    body = {"type": "about:blank", "title": "Not Found", "status": 404}
    response = _public_json(body, _PROBLEM)
    response.status_code = 404
    return response


def _retry_after(context: RequestContext) -> int:
    state = context.least_ready.state
    return random.randint(*_RETRY_AFTER.get(state, _DEFAULT_RETRY_AFTER))


def _language_of(request: HttpRequest) -> translation.override:
    """Activate the request's language; the thread's may be left from another request."""
    return translation.override(preferred_language(request))


def _finalize(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    # `private`, because older versions of Django's cache ignore `no-store`.
    response["Cache-Control"] = "no-store, private"
    response["X-Content-Type-Options"] = "nosniff"
    response["Content-Length"] = len(response.content)
    # Otherwise Django logs each 503 as an error of the project, and mails it to ADMINS.
    response._has_been_logged = True  # type: ignore[attr-defined]
    if request.method == "HEAD":
        response.content = b""
    return response
