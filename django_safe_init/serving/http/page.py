"""The page that people see while they wait: one response that needs nothing else.

No database, no session, no static file, none of the project's templates. All its words are in
`page_texts`, its look and its script beside its template.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.conf import settings as django_settings
from django.http import HttpResponse
from django.template import Context, Engine
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.safestring import mark_safe

from django_safe_init.serving.http import page_texts as texts
from django_safe_init.serving.http.payloads import PUBLIC_STATES, least_ready
from django_safe_init.status import Status, StatusDetail

_PACKAGE = Path(__file__).parents[2]
_TEMPLATES = _PACKAGE / "templates"
#: Somebody is at work, or about to be: there is a bar, moving if nothing is known yet.
_WORKING = ("initializing", "migrating")


@dataclass(frozen=True)
class DebugContext:
    """What only a developer may see."""

    pending: tuple[str, ...] = ()
    command: str = "python manage.py safe_migrate"
    error: str | None = None
    leader: str | None = None


@dataclass(frozen=True)
class PageContext:
    """What the page shows. Everything but `debug` is public."""

    #: One of the five public states; with any other the page says that nothing is known yet.
    state: str
    #: Where the browser goes once ready: a path of this site. Anything else becomes `/`.
    continue_url: str = "/"
    #: The JSON and, for `Accept: text/html`, the page of the status; None: only the refresh.
    status_url: str | None = None
    #: The number of the run, shown if it failed.
    run: int | None = None
    #: Steps; 0 of 0 while that is not known.
    done: int = 0
    total: int = 0
    #: Per cent.
    progress: int = 0
    elapsed_seconds: float | None = None
    #: Since the leader's last sign of life.
    silence_seconds: float | None = None
    #: Only if earlier runs of the same steps were timed.
    remaining_seconds: float | None = None
    #: Between two loads where no script runs.
    refresh_seconds: int = 5
    #: Whether the request sent something, which is lost now: the browser goes nowhere by itself.
    sent: bool = False
    #: Whether who reads this came for the page itself: once loaded as ready, it stays.
    stays: bool = False
    debug: DebugContext | None = None


def render(view: PageContext, status: int = 200) -> HttpResponse:
    """The page, in the language that is active; it is never cached, framed or indexed."""
    assets = _assets()
    status_url = view.status_url if _is_local(view.status_url or "") else None
    scripted = status_url is not None
    language = texts.language()
    continue_url = _local(view.continue_url)
    content = _engine().get_template("django_safe_init/page.html")
    context = {
        "language": language,
        "direction": "rtl" if language in settings.LANGUAGES_BIDI else "ltr",
        "style": mark_safe(assets.style),  # our own file
        "script": mark_safe(assets.script) if scripted else "",  # our own files
        "status_url": status_url,
        "continue_url": continue_url,
        "stays": view.sent or view.stays,
        "refresh": _refresh(view, continue_url),
        "unanswered": texts.unanswered(),
        "shown": _shown(view),
        "ready": _shown(PageContext("ready", sent=view.sent)),
    }
    response = HttpResponse(content.render(Context(context)), status=status)
    response["Content-Security-Policy"] = assets.policy(scripted)
    response["Cache-Control"] = "no-store"
    response["Referrer-Policy"] = "same-origin"
    response["X-Content-Type-Options"] = "nosniff"
    response["X-Robots-Tag"] = "noindex"
    return response


def _local(url: str) -> str:
    """The URL if a browser stays on this site with it: the page is no open redirect."""
    return url if _is_local(url) else "/"


def _is_local(url: str) -> bool:
    local = url.startswith("/") and url_has_allowed_host_and_scheme(url, None)
    return local and url.isprintable()


def _refresh(view: PageContext, continue_url: str) -> str:
    if view.sent:
        return ""
    if view.state == "ready":
        return f"1;url={continue_url}"
    return str(max(1, view.refresh_seconds))


# What is sent beside the words


class _Assets(NamedTuple):
    style: str
    script: str

    def policy(self, scripted: bool) -> str:
        """Allows this very style and script, and questions to this site; nothing else."""
        allowed = [f"style-src {_source(self.style)}"]
        if scripted:
            allowed += [f"script-src {_source(self.script)}", "connect-src 'self'"]
        denied = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        return f"default-src 'none'; {'; '.join(allowed)}; {denied}"


def _source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _assets() -> _Assets:
    folder = _TEMPLATES / "django_safe_init"
    module = _PACKAGE / "static/django_safe_init/status.js"
    return _Assets(
        style=(folder / "page.css").read_text("utf-8"),
        script=module.read_text("utf-8") + (folder / "page.js").read_text("utf-8"),
    )


@cache
def _engine() -> Engine:
    """An engine of our own: the project's may be absent, or ask the database for a context."""
    return Engine(dirs=[str(_TEMPLATES)])


# The words and numbers


def _shown(view: PageContext) -> dict[str, Any]:
    heading, explanation = texts.HEADINGS.get(view.state, texts.UNKNOWN)
    total = max(0, view.total)
    done = min(max(0, view.done), total)
    progress = 100 if view.state == "ready" else min(max(0, view.progress), 100)
    working, failed = view.state in _WORKING, view.state == "error"
    if working and 0 < total == done:
        explanation = texts.CHECKING
    if view.state == "ready" and (view.sent or view.stays):
        explanation = texts.SEND_AGAIN if view.sent else texts.IN_USE
    counted = total > 0 and (working or failed)
    return {
        "state": view.state,
        "working": working,
        "title": texts.title(str(heading), progress if working and total else None),
        "heading": heading,
        "explanation": explanation,
        "run": texts.run(view.run) if failed and view.run is not None else "",
        "advice": texts.advice(),
        "bar": working or counted or view.state == "ready",
        "value": progress if counted or progress else None,
        "steps": texts.steps(done, total) if counted else "",
        "percent": texts.percent(progress),
        "numbers": _numbers(view, working) if working or failed else [],
        "promise": _promise(view),
        "link": texts.link("ready" if view.sent else view.state),
        "debug": _debug(view.debug) if view.debug else None,
    }


def _promise(view: PageContext) -> str:
    if view.sent:
        return texts.lost()
    return "" if view.stays else texts.promise(view.state)


class _Number(NamedTuple):
    label: str
    text: str
    #: What the clock of the page starts with; None: it does not run.
    seconds: int | None = None


def _numbers(view: PageContext, working: bool) -> list[_Number]:
    numbers = []
    if view.elapsed_seconds is not None:
        elapsed = max(0, int(view.elapsed_seconds))
        label = texts.elapsed_label(over=not working)
        running = elapsed if working else None
        numbers.append(_Number(label, texts.clock(elapsed), running))
    if working and view.silence_seconds is not None:
        silence = texts.ago(view.silence_seconds)
        numbers.append(_Number(texts.silence_label(), silence))
    if working and view.remaining_seconds is not None:
        remaining = texts.about(view.remaining_seconds)
        numbers.append(_Number(texts.remaining_label(), remaining))
    return numbers


def _debug(view: DebugContext) -> dict[str, Any]:
    return {
        "heading": texts.debug_heading(),
        "pending": view.pending,
        "count": texts.pending(len(view.pending)),
        "advice": texts.debug_advice(),
        "command": view.command,
        "error": view.error,
        "leader": texts.leader(view.leader) if view.leader else None,
    }


_COMMAND = "python manage.py safe_migrate"


def page(
    scenes: Sequence[StatusDetail],
    status_url: str | None,
    continue_url: str,
    refresh_seconds: int,
    *,
    sent: bool = False,
    own: bool = False,
) -> HttpResponse:
    """The page about the worst of them, for a person.

    `sent`: instead of what a request that sent something has asked for. `own`: asked for itself.
    """
    found = least_ready([scene.status for scene in scenes])
    scene = next(scene for scene in scenes if scene.status is found)
    run = found.run
    work = run if run and run.open else None
    return render(
        PageContext(
            state=PUBLIC_STATES[found.state],
            run=run.id if run else None,
            done=work.done if work else 0,
            total=work.total if work else 0,
            progress=found.progress,
            elapsed_seconds=work.age_seconds if work else None,
            silence_seconds=work.silence_seconds if work else None,
            remaining_seconds=scene.remaining_seconds,
            status_url=status_url,
            continue_url=continue_url,
            refresh_seconds=refresh_seconds,
            sent=sent,
            stays=own and found.ready,
            debug=_debug_context(found, scenes) if django_settings.DEBUG else None,
        )
    )


def _debug_context(found: Status, scenes: Sequence[StatusDetail]) -> DebugContext:
    pending = dict.fromkeys(name for each in scenes for name in each.status.pending)
    leader = found.run.leader if found.run else None
    return DebugContext(tuple(pending), _COMMAND, found.error, leader)
