"""The untrusted parts of a request: its token, media types, database and URL."""

from __future__ import annotations

import pytest
from django.test import RequestFactory

from django_safe_init.serving.http.request_parsing import (
    is_authorized,
    prefers_html,
    same_site_url,
    selected_databases,
)

factory = RequestFactory()
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


def as_sent(text: str) -> str:
    """Return a header's bytes as a WSGI server decodes them."""
    return text.encode().decode("latin-1")


@pytest.mark.parametrize(
    ("token", "header"),
    [
        ("s3cret", "Bearer s3cret"),
        ("s3cret", "bearer s3cret"),
        ("s3cret", "BEARER  s3cret "),
        ("s3cret\n", "Bearer s3cret"),
        ("schlüssel", as_sent("Bearer schlüssel")),
        ("鍵", as_sent("Bearer 鍵")),
        ("two words", "Bearer two words"),
    ],
)
def test_the_token(token, header) -> None:
    """The right token authorizes, also one that is not ASCII or comes from a file."""
    assert is_authorized(factory.get("/", HTTP_AUTHORIZATION=header), token)


@pytest.mark.parametrize(
    ("token", "header"),
    [
        ("", "Bearer "),
        ("", "Bearer"),
        (" \n", "Bearer "),
        ("s3cret", ""),
        ("s3cret", "s3cret"),
        ("s3cret", "Bearer"),
        ("s3cret", "Bearer s3cre"),
        ("s3cret", "Bearer s3crett"),
        ("s3cret", "Basic s3cret"),
        ("s3cret", "Bearer S3CRET"),
        ("schlüssel", "Bearer schlussel"),
        ("schlüssel", "Bearer schlüssel".replace("ü", "\udcfc")),
        ("\udcff", "Bearer ÿ"),
        ("s3cret", "Bearer s3cret\ud800"),
    ],
)
def test_another_token(token, header) -> None:
    """Another token or scheme does not authorize; an empty token authorizes no request."""
    assert not is_authorized(factory.get("/", HTTP_AUTHORIZATION=header), token)


def test_no_header() -> None:
    """A request without the header is not authorized."""
    assert not is_authorized(factory.get("/"), "s3cret")


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        (CHROME, True),
        ("text/html", True),
        ("TEXT/HTML", True),
        ("text/*", True),
        ("text/html;q=0.9, application/json;q=0.8", True),
        ("application/json, text/html;q=0.9", False),
        ("text/html;q=0", False),
        ("*/*", False),
        ("", False),
        ("application/json", False),
        ("application/problem+json, text/html;q=0.5", False),
        ("application/json, text/html", False),
        ("image/png", False),
        ("garbage", False),
        ("text/html; x*=nowhere''y", False),
    ],
)
def test_prefers_html(accept, page) -> None:
    """Clients that name HTML and prefer it get the page; probes and scripts get JSON."""
    assert prefers_html(factory.get("/", HTTP_ACCEPT=accept)) is page


def test_no_accept_header() -> None:
    """A client that names no media type gets JSON."""
    assert not prefers_html(factory.get("/"))


def test_an_unknown_encoding(monkeypatch) -> None:
    """A header with an encoding that Django refuses does not prefer HTML."""
    request = factory.get("/", HTTP_ACCEPT="text/html;x*=nonexistent''%41")

    def unknown(*args: object) -> str:
        raise LookupError("unknown encoding: nonexistent")

    monkeypatch.setattr(request, "get_preferred_type", unknown)
    assert not prefers_html(request)


@pytest.mark.parametrize(
    ("query", "aliases"),
    [
        ("", ["default", "other"]),
        ("x=1", ["default", "other"]),
        ("database=other", ["other"]),
        ("database=%6Fther", ["other"]),
        ("database=nowhere", []),
        ("database=", []),
        ("database=default&database=other", []),
        ("&".join(["x=1"] * 1000), []),
    ],
)
def test_selected_databases(query, aliases) -> None:
    """`?database=` selects an alias of SAFE_INIT["DATABASES"]; any other alias selects none."""
    request = factory.get(f"/?{query}")
    assert list(selected_databases(request, ["default", "other"])) == aliases


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/cart/?a=b", "/cart/?a=b"),
        ("//evil.example/x", "/%2Fevil.example/x"),
        ("/\\evil.example", "/%5Cevil.example"),
        ("/ü?ü", "/%C3%BC?%C3%BC"),
    ],
)
def test_same_site_url(path, url) -> None:
    """The URL to return to is the requested one, and never on another host."""
    address, _, query = path.partition("?")
    request = factory.get("/", QUERY_STRING=query)
    request.path = address
    assert same_site_url(request) == url
