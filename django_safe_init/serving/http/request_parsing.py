"""The untrusted parts of a request: the token, `Accept`, `?database=` and the URL."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from urllib.parse import parse_qs

from django.http import HttpRequest
from django.utils.http import escape_leading_slashes

#: More than a valid query string has, and few enough to parse quickly.
_MAX_FIELDS = 20
#: The first one answers requests without a preference.
_TYPES = ["application/json", "application/problem+json", "text/html"]


def is_authorized(request: HttpRequest, token: str) -> bool:
    """Return True if the request carries the token. Compares in constant time.

    An empty token authorizes no request.
    """
    scheme, _, given = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
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
        return request.get_preferred_type(_TYPES) == "text/html"
    except (ValueError, LookupError):  # an `Accept` header that Django cannot parse
        return False


def selected_databases(request: HttpRequest, databases: Sequence[str]) -> Sequence[str]:
    """Return the alias that `?database=` names, or all; none if it names an unknown one."""
    try:
        fields = parse_qs(
            request.META.get("QUERY_STRING", ""),
            keep_blank_values=True,
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        return ()
    if "database" not in fields:
        return databases
    return [alias for alias in databases if fields["database"] == [alias]]


def same_site_url(request: HttpRequest) -> str:
    """Return the requested URL, which cannot lead to another host."""
    return escape_leading_slashes(request.get_full_path())
