"""The untrusted parts of a request: the token, `Accept`, the language, `?database=`, the URL.

A web server accepts headers of 64 kB and more. Each part is cut before it is parsed, so that a
request costs no more than a view.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import parse_qs

from django.http import HttpRequest, parse_cookie
from django.utils import translation
from django.utils.http import escape_leading_slashes

#: More than a valid query string has, and few enough to parse quickly.
_MAX_FIELDS = 20
_MAX_QUERY_LENGTH = 2000
_MAX_TOKEN_LENGTH = 8192
#: A longer URL is not offered to the reader of the page. Many programs refuse it.
_MAX_URL_LENGTH = 4000


class _Limit(NamedTuple):
    """The part of a header that is parsed: elements of a list, and characters."""

    separator: str
    elements: int
    characters: int

    def cut(self, value: str) -> str:
        """Return the first whole elements of the value."""
        elements = value[: self.characters].split(self.separator)
        if len(value) > self.characters:
            elements.pop()
        return self.separator.join(elements[: self.elements])


#: A browser sends five to ten media types and languages, and at most 180 cookies for a site.
_LIMITS = {
    "HTTP_ACCEPT": _Limit(",", 20, 1000),
    "HTTP_ACCEPT_LANGUAGE": _Limit(",", 20, 500),
    "HTTP_COOKIE": _Limit(";", 180, 8192),
}
#: The first one answers requests without a preference.
_TYPES = ["application/json", "application/problem+json", "text/html"]


def is_authorized(request: HttpRequest, token: str) -> bool:
    """Return True if the request carries the token. Compares in constant time.

    An empty token authorizes no request.
    """
    header = request.META.get("HTTP_AUTHORIZATION", "")
    if len(header) > _MAX_TOKEN_LENGTH:
        return False
    scheme, _, given = header.partition(" ")
    wanted = token.strip()  # a secret from a file ends with a newline
    if not wanted or scheme.lower() != "bearer":
        return False
    # WSGI and ASGI servers decode the bytes of a header as Latin-1.
    expected = wanted.encode("utf-8", "surrogatepass").decode("latin-1")
    return hmac.compare_digest(_bytes(given.strip()), _bytes(expected))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def prefers_html(request: HttpRequest) -> bool:
    """Return True for a browser: it names HTML, before JSON. A probe sends `*/*`."""
    try:
        return _limited(request).get_preferred_type(_TYPES) == "text/html"
    except (ValueError, LookupError):  # an `Accept` header that Django cannot parse
        return False


def selected_databases(request: HttpRequest, databases: Sequence[str]) -> Sequence[str]:
    """Return the alias that `?database=` names, or all; none if it names an unknown one."""
    try:
        fields = parse_qs(
            request.META.get("QUERY_STRING", "")[:_MAX_QUERY_LENGTH],
            keep_blank_values=True,
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        return ()
    if "database" not in fields:
        return databases
    return [alias for alias in databases if fields["database"] == [alias]]


def same_site_url(request: HttpRequest) -> str:
    """Return the requested URL, which cannot lead to another host; `/` for a very long one."""
    if len(request.path) + len(request.META.get("QUERY_STRING", "")) > _MAX_URL_LENGTH:
        return "/"
    return escape_leading_slashes(request.get_full_path())


def preferred_language(request: HttpRequest) -> str:
    """Return the language of the request's cookie or `Accept-Language` header."""
    return translation.get_language_from_request(_limited(request))


def _limited(request: HttpRequest) -> HttpRequest:
    """Return a request that has only the headers in `_LIMITS`, each of them cut."""
    limited = HttpRequest()
    for name, limit in _LIMITS.items():
        if name in request.META:
            limited.META[name] = limit.cut(request.META[name])
    limited.COOKIES = parse_cookie(limited.META.get("HTTP_COOKIE", ""))
    return limited
