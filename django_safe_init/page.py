"""The page that people see while a database is being initialized."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpResponse
from django.utils.html import format_html

from django_safe_init.answers import MESSAGES


@dataclass(frozen=True)
class DebugView:
    """What the page tells a developer, with `DEBUG`."""

    pending: tuple[str, ...]
    command: str
    error: str | None
    leader: str | None


@dataclass(frozen=True)
class PageView:
    """What there is to show."""

    state: str
    run: int | None
    done: int
    total: int
    progress: int
    elapsed_seconds: float | None
    silence_seconds: float | None
    remaining_seconds: float | None
    status_url: str | None
    continue_url: str
    refresh_seconds: int
    debug: DebugView | None = None


def render(view: PageView) -> HttpResponse:
    """The page, complete in itself."""
    debug = view.debug
    more = f"{', '.join(debug.pending)}: {debug.command}" if debug else ""
    response = HttpResponse(
        format_html(
            '<!doctype html><meta charset="utf-8">'
            '<meta http-equiv="refresh" content="{};url={}"><title>{}</title>'
            '<p>{}</p><progress max="100" value="{}"></progress><p>{}</p>',
            view.refresh_seconds,
            view.continue_url,
            MESSAGES[view.state],
            MESSAGES[view.state],
            view.progress,
            more,
        )
    )
    response["Content-Security-Policy"] = "default-src 'none'"
    response["Cache-Control"] = "no-store"
    return response
