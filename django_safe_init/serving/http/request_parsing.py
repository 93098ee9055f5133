"""What a request asks for, read without trusting anything in it."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from urllib.parse import parse_qs

from django.http import HttpRequest
from django.utils.http import escape_leading_slashes

#: More than any request of ours has, and too few to keep us busy.
_MOST_FIELDS = 20
#: The first of them is for who does not mind.
_TYPES = ["application/json", "application/problem+json", "text/html"]


def is_authorized(request: HttpRequest, token: str) -> bool:
    """Whether the request carries the token, compared in constant time.

    An empty token opens nothing.
    """
    scheme, _, given = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    wanted = token.strip()  # a secret that comes from a file ends with a newline
    if not wanted or scheme.lower() != "bearer":
        return False
    # A server hands over the bytes of a header as if they were Latin-1.
    expected = wanted.encode("utf-8", "surrogatepass").decode("latin-1")
    return hmac.compare_digest(_bytes(given.strip()), _bytes(expected))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def prefers_html(request: HttpRequest) -> bool:
    """Whether a browser asks: HTML by name and before JSON. A probe's `*/*` is no browser."""
    try:
        return request.get_preferred_type(_TYPES) == "text/html"
    except (ValueError, LookupError):  # more, or stranger, than Django cares to parse
        return False


def selected_databases(request: HttpRequest, databases: Sequence[str]) -> Sequence[str]:
    """The aliases that `?database=` chooses, or all; none if there is no such alias."""
    try:
        fields = parse_qs(
            request.META.get("QUERY_STRING", ""),
            keep_blank_values=True,
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:
        return ()
    if "database" not in fields:
        return databases
    return [alias for alias in databases if fields["database"] == [alias]]


def same_site_url(request: HttpRequest) -> str:
    """The URL that is asked for, which cannot lead to another host."""
    return escape_leading_slashes(request.get_full_path())
