"""The middleware with arbitrary requests: no error, and no secret in a response."""

from __future__ import annotations

import asyncio
import json
from io import BytesIO
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_safe_init.conf import DEFAULT_PATHS
from django_safe_init.middleware import InitializationMiddleware
from django_safe_init.status import Status
from tests.unit.conftest import report, status_of
from tests.unit.snapshots import ended_run, run_row, snapshot

MISSING = ("secretapp.0002_secretname",)
FAILED = {"error": "secret: SELECT password", "leader": "secret-host:77"}
STATUSES = [
    status_of(snapshot(missing=MISSING)),
    status_of(
        snapshot(
            run_row(17, message=MISSING[0], leader="secret-host:77"),
            missing=MISSING,
            leader_pid=99,
        )
    ),
    status_of(snapshot(ended_run(18, "failed", **FAILED), missing=MISSING)),
]
TOKEN = "t0ken"
#: The characters by which a web server represents the bytes of a request.
bytes_as_text = st.text(st.characters(max_codepoint=255), max_size=60)
paths = st.one_of(
    st.sampled_from([path for path in DEFAULT_PATHS.values() if path]),
    st.builds("/{}".format, bytes_as_text),
    st.sampled_from(["//evil.example/", "/health/live/", "/HEALTH/DB", "*", ""]),
)
queries = st.one_of(
    st.sampled_from(["", "database=default", "database=secret", "database"]),
    st.builds("database={}".format, bytes_as_text),
    bytes_as_text,
)
methods = st.one_of(st.sampled_from(["GET", "HEAD", "POST", "OPTIONS"]), bytes_as_text)
media = st.sampled_from(
    ["text/html", "*/*", "application/json", "text/*", ";q=0.5", ";q=nan", "; x*=a''b"]
)
accepts = st.one_of(
    st.lists(media, max_size=4).map(",".join),
    st.lists(media, max_size=4).map("".join),
    bytes_as_text,
)
tokens = st.one_of(
    st.sampled_from([f"Bearer {TOKEN}", "Bearer ", f"Bearer {TOKEN[:-1]}", TOKEN]),
    st.builds("Bearer {}".format, bytes_as_text),
    bytes_as_text,
)
requests = st.fixed_dictionaries(
    {"method": methods, "path": paths, "query": queries},
    optional={
        "accept": accepts,
        "authorization": tokens,
        "accept-language": st.one_of(st.just("de, en;q=0.5"), bytes_as_text),
        "cookie": st.one_of(st.just("django_language=xx"), bytes_as_text),
        "host": bytes_as_text,
    },
)
fuzz = settings(
    max_examples=400,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def switched_on(set_statuses, settings) -> None:
    """Use a project with only the middleware, and a token."""
    set_statuses(STATUSES[0])
    settings.SAFE_INIT = {**settings.SAFE_INIT, "STATUS_TOKEN": TOKEN}
    settings.MIDDLEWARE = ["django_safe_init.middleware.InitializationMiddleware"]
    settings.ROOT_URLCONF = "tests.unit.urls"


def examine(request: dict[str, str], status: int, headers: Any, body: str) -> None:
    """Fail if the response is an error, contains a secret, or comes from the project."""
    # Hypothesis also generates the strings of this module, and the page links to the URL.
    url = request["path"] + request["query"]
    ours = request["path"] in DEFAULT_PATHS.values()
    readable = request["method"] in ("GET", "HEAD")
    if not ours:
        assert status == 503
    elif not readable:
        assert status == 405
    else:
        assert status in (200, 404, 503)
    scheme, _, given = request.get("authorization", "").partition(" ")
    if (scheme.lower(), given.strip()) != ("bearer", TOKEN):
        for secret in ("secretapp", "secretname", "secret-host", "password"):
            assert secret not in body or secret in url
    assert TOKEN not in body or TOKEN in url
    assert headers["Cache-Control"] == "no-store, private"
    if "json" in headers["Content-Type"] and body:
        json.loads(body)


@fuzz
@given(request=requests, status=st.sampled_from(STATUSES))
def test_under_a_wsgi_server(request: dict[str, str], status: Status) -> None:
    """Any WSGI request gets 200, 404, 405 or 503, and no secret."""
    report(status)
    environ = {
        "REQUEST_METHOD": request["method"],
        "PATH_INFO": request["path"],
        "QUERY_STRING": request["query"],
        "SERVER_NAME": "10.1.2.3",
        "SERVER_PORT": "8000",
        "wsgi.input": BytesIO(),
        "wsgi.url_scheme": "http",
        **{
            f"HTTP_{name.upper().replace('-', '_')}": value
            for name, value in request.items()
            if name not in ("method", "path", "query")
        },
    }
    started: list[Any] = []
    response = WSGIHandler()(environ, lambda *arguments: started.append(arguments))
    body = b"".join(response).decode()
    response.close()
    [(line, headers)] = started
    seen = {
        **request,
        "method": request["method"].upper(),
        "path": request["path"] or "/",
    }
    examine(seen, int(line.split()[0]), dict(headers), body)


async def no_response(request: HttpRequest) -> HttpResponse:
    raise AssertionError("was let through")


@fuzz
@given(request=requests, status=st.sampled_from(STATUSES))
def test_under_an_asgi_server(request: dict[str, str], status: Status) -> None:
    """Any ASGI request gets 200, 404, 405 or 503, and no secret."""
    report(status)
    scope = {
        "type": "http",
        "method": request["method"].upper(),
        "path": request["path"],
        # Django refuses any other encoding before it creates a request.
        "query_string": request["query"].encode(),
        "headers": [
            (name.encode(), value.encode("latin-1"))
            for name, value in request.items()
            if name not in ("method", "path", "query")
        ],
    }

    async def answer() -> HttpResponse:
        return await InitializationMiddleware(no_response)(
            ASGIRequest(scope, BytesIO())
        )

    response = asyncio.run(answer())
    seen = {**request, "method": request["method"].upper()}
    examine(seen, response.status_code, response.headers, response.content.decode())
