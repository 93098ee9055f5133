"""A request costs no more than a view, whatever it carries."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import RequestFactory

from django_safe_init.serving.http import responses
from tests.unit.conftest import BEHIND, status_of

pytestmark = pytest.mark.thorough

factory = RequestFactory()
BROWSER = {
    "HTTP_ACCEPT": "text/html,application/xhtml+xml,*/*;q=0.8",
    "HTTP_ACCEPT_LANGUAGE": "en-US,en;q=0.5",
    "HTTP_COOKIE": "sessionid=1; csrftoken=2",
}
#: What 55 kB of a part of a request can hold.
LARGE: dict[str, dict[str, str]] = {
    "media types": {"HTTP_ACCEPT": ",".join(f"a/{i};q=0.5" for i in range(5000))},
    "short media types": {"HTTP_ACCEPT": "a," * 27_500},
    "parameters": {"HTTP_ACCEPT": "text/html" + ";a=1" * 13_000},
    "one media type": {"HTTP_ACCEPT": "a" * 55_000},
    "languages": {"HTTP_ACCEPT_LANGUAGE": ",".join(f"x{i}" for i in range(9000))},
    "cookies": {"HTTP_COOKIE": "; ".join(f"a{i}=%41" for i in range(6000))},
    "empty cookies": {"HTTP_COOKIE": ";" * 55_000},
    "one cookie": {"HTTP_COOKIE": "django_language=" + "%41" * 18_000},
    "a token": {"HTTP_AUTHORIZATION": "Bearer " + "\xfc" * 55_000},
    "fields": {"QUERY_STRING": "&".join(f"k{i}=%41" for i in range(100_000))},
    "one field": {"QUERY_STRING": "database=" + "%41" * 18_000},
    "a host": {"HTTP_HOST": "a." * 27_500},
    "an entity tag": {"HTTP_IF_NONE_MATCH": '"a",' * 13_000},
    "a path": {"path": "/" + "\xfc<" * 27_000},
}


def request(path: str = "/cart/", **headers: str) -> HttpRequest:
    return factory.generic("GET", path, **{**BROWSER, **headers})


def calls_of(function: Callable[[], Any]) -> int:
    """Return the number of calls of Python and C functions in `function`."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def seconds_of(function: Callable[[], Any]) -> float:
    """Return the shortest processor time of several calls."""
    times = []
    for _ in range(5):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize(
    "respond", [responses.service_unavailable, responses.status, responses.ready]
)
@pytest.mark.parametrize("part", LARGE)
def test_costs(set_statuses, settings, respond, part) -> None:
    """A large request needs about the work of a browser's request."""
    set_statuses(status_of(BEHIND))
    settings.SAFE_INIT = {**settings.SAFE_INIT, "STATUS_TOKEN": "s3cret"}
    plain, large = request(), request(**LARGE[part])
    respond(plain)  # it fills the caches of Django's translation
    assert respond(large).status_code in (200, 404, 503)
    fewest = max(calls_of(lambda: responses.status(request())), 500)
    assert calls_of(lambda: respond(large)) < 3 * fewest
    limit = seconds_of(lambda: responses.status(request())) + 0.0005
    assert seconds_of(lambda: respond(large)) < 10 * limit


def test_the_beginning_counts(set_statuses) -> None:
    """The first media types and languages are obeyed, and the last, cut one is not."""
    set_statuses(status_of(BEHIND))
    accept = "text/html," + "a/b," * 400
    response = responses.status(request(HTTP_ACCEPT=accept))
    assert response["Content-Type"].startswith("text/html")
    languages = "de," + "xx," * 400
    page = responses.status(request(HTTP_ACCEPT_LANGUAGE=languages))
    assert b'lang="de"' in page.content
    late = responses.status(request(HTTP_ACCEPT="a/b," * 400 + "text/html"))
    assert late["Content-Type"] == "application/json"


def test_a_cookie_for_the_language(set_statuses) -> None:
    """The cookie of the language is obeyed among others."""
    set_statuses(status_of(BEHIND))
    page = responses.status(request(HTTP_COOKIE="a=1; django_language=de; b=2"))
    assert b'lang="de"' in page.content


def test_a_long_url(set_statuses) -> None:
    """The page opens the site's root instead of a URL of more than 4,000 characters."""
    set_statuses(status_of(BEHIND))
    page = responses.service_unavailable(request("/cart/?q=" + "x" * 5000))
    assert b"xxxxxxx" not in page.content
