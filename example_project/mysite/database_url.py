"""Translate DATABASE_URL to an entry of Django's DATABASES."""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

EXAMPLE = "postgres://user:password@host:port/name"


def database_settings(url: str) -> dict[str, Any]:
    """Return the settings for `postgres://user:password@host:port/name?sslmode=require`."""
    parts = _split(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.strip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or ""),
        "PORT": parts.port or "",
        "OPTIONS": dict(parse_qsl(parts.query)),
    }


def _split(url: str) -> SplitResult:
    # The message omits the value, which contains a password.
    wrong = ImproperlyConfigured(f"DATABASE_URL must look like {EXAMPLE}.")
    try:
        parts = urlsplit(url)
        complete = parts.port != 0 and bool(parts.path.strip("/"))
    except ValueError as error:
        raise wrong from error
    if parts.scheme not in ("postgres", "postgresql") or not complete:
        raise wrong
    return parts
