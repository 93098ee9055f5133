"""The HTML page for a browser that waits: one response without further files.

It uses no database, session, static file or template of the project. Its texts are in
`page_texts`; its style and script are beside its template.
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
from django.http import HttpResponse
from django.template import Context, Engine
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.safestring import mark_safe

from django_safe_init.serving.http import page_texts as texts
from django_safe_init.serving.http.payloads import PUBLIC_STATES, least_ready
from django_safe_init.status import Status, StatusDetail

_PACKAGE = Path(__file__).parents[2]
_TEMPLATES = _PACKAGE / "templates"
#: The public states that show a progress bar, which only moves while the progress is unknown.
_WORKING = ("initializing", "migrating")
_COMMAND = "python manage.py safe_migrate"


@dataclass(frozen=True)
class DebugContext:
    """The part of the page that only developers may see."""

    pending: tuple[str, ...] = ()
    command: str = _COMMAND
    error: str | None = None
    leader: str | None = None
    #: The name of the running step, with its operation.
    work: str | None = None


@dataclass(frozen=True)
class PageContext:
    """The content of the page. Everything except `debug` is public."""

    #: One of the five public states. For any other value the page says that it is not known yet.
    state: str
    #: The URL that opens once ready: a path of this site. Any other URL becomes `/`.
    continue_url: str = "/"
    #: The URL of the status, as JSON and as this page. None: the page can only reload itself.
    status_url: str | None = None
    #: The number of the run, shown if it failed.
    run: int | None = None
    #: Finished steps and all steps; both 0 while unknown.
    done: int = 0
    total: int = 0
    #: The tenants' schemas that are done, and all of them; None unless the run is in them.
    sites: tuple[int, int] | None = None
    #: Per cent.
    progress: int = 0
    #: The running operation of a migration that is not one transaction, and all of them.
    operation: tuple[int, int] | None = None
    elapsed_seconds: float | None = None
    #: Seconds since the leader's last heartbeat.
    silence_seconds: float | None = None
    #: None unless earlier runs timed the same steps.
    remaining_seconds: float | None = None
    #: Seconds between two reloads without JavaScript.
    refresh_seconds: int = 5
    #: True if the request sent a form, which is lost: the page then opens no URL.
    form_was_sent: bool = False
    #: True if the status page was requested: a page that is loaded as ready opens no URL.
    stay_on_page: bool = False
    debug: DebugContext | None = None


def render(page: PageContext, status: int = 200) -> HttpResponse:
    """Return the page in the active language; it is never cached, framed or indexed."""
    template = _engine().get_template("django_safe_init/page.html")
    context = _template_context(page)
    response = HttpResponse(template.render(Context(context)), status=status)
    response["Content-Security-Policy"] = _assets().policy(bool(context["script"]))
    response["Cache-Control"] = "no-store"
    response["Referrer-Policy"] = "same-origin"
    response["X-Content-Type-Options"] = "nosniff"
    response["X-Robots-Tag"] = "noindex"
    return response


def _template_context(page: PageContext) -> dict[str, Any]:
    assets, language = _assets(), texts.language()
    status_url = page.status_url if _is_local(page.status_url or "") else None
    # The page must not be an open redirect.
    continue_url = page.continue_url if _is_local(page.continue_url) else "/"
    return {
        "language": language,
        "direction": "rtl" if language in settings.LANGUAGES_BIDI else "ltr",
        "style": mark_safe(assets.style),  # this package's own file
        "script": mark_safe(assets.script) if status_url else "",  # own files, too
        "status_url": status_url,
        "continue_url": continue_url,
        "stay_on_page": page.form_was_sent or page.stay_on_page,
        "refresh": _refresh(page, continue_url),
        "unanswered": texts.unanswered(),
        "content": _content(page),
        "ready": _content(PageContext("ready", form_was_sent=page.form_was_sent)),
    }


def _is_local(url: str) -> bool:
    local = url.startswith("/") and url_has_allowed_host_and_scheme(url, None)
    return local and url.isprintable()


def _refresh(page: PageContext, continue_url: str) -> str:
    if page.form_was_sent:
        return ""
    if page.state == "ready":
        return f"1;url={continue_url}"
    return str(max(1, page.refresh_seconds))


# The style and the script


class _Assets(NamedTuple):
    style: str
    script: str

    def policy(self, scripted: bool) -> str:
        """Return a policy that allows this style, this script, and requests to this site."""
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
    """Return a template engine that is independent of the project's.

    The project may have none, or one whose context processors query the database.
    """
    return Engine(dirs=[str(_TEMPLATES)])


# The texts and numbers


def _content(page: PageContext) -> dict[str, Any]:
    heading, _ = texts.HEADINGS.get(page.state, texts.UNKNOWN)
    total = max(0, page.total)
    done = min(max(0, page.done), total)
    progress = 100 if page.state == "ready" else min(max(0, page.progress), 100)
    working, failed = page.state in _WORKING, page.state == "error"
    counted = (total > 0 or page.sites is not None) and (working or failed)
    shows_run = failed or page.state == "not_initialized"
    return {
        "state": page.state,
        "working": working,
        "title": texts.title(str(heading), progress if working and counted else None),
        "heading": heading,
        "explanation": _explanation(
            page, checking=0 < total == done and page.sites is None
        ),
        "run": texts.run(page.run) if shows_run and page.run is not None else "",
        "advice": texts.advice(),
        "bar": working or counted or page.state == "ready",
        "value": progress if counted or progress else None,
        "steps": _counts(page, done, total) if counted else "",
        "percent": texts.percent(progress),
        "numbers": _numbers(page, working) if working or failed else [],
        "outlook": _outlook(page),
        "link": texts.link("ready" if page.form_was_sent else page.state),
        "debug": _debug(page.debug) if page.debug else None,
    }


def _counts(page: PageContext, done: int, total: int) -> str:
    return texts.steps(done, total) if page.sites is None else texts.sites(*page.sites)


def _explanation(page: PageContext, checking: bool) -> str:
    _, explanation = texts.HEADINGS.get(page.state, texts.UNKNOWN)
    if page.state in _WORKING and checking:
        explanation = texts.CHECKING
    if page.state == "ready" and page.stay_on_page:
        explanation = texts.IN_USE
    if page.state == "ready" and page.form_was_sent:
        explanation = texts.SEND_AGAIN
    return str(explanation)


def _outlook(page: PageContext) -> str:
    if page.form_was_sent:
        return texts.form_lost()
    return "" if page.stay_on_page else texts.outlook(page.state)


class _Number(NamedTuple):
    label: str
    text: str
    #: The initial value of the page's clock; None: a text without a clock.
    seconds: int | None = None


def _numbers(page: PageContext, working: bool) -> list[_Number]:
    numbers = []
    if page.elapsed_seconds is not None:
        elapsed = max(0, int(page.elapsed_seconds))
        label = texts.elapsed_label(over=not working)
        running = elapsed if working else None
        numbers.append(_Number(label, texts.clock(elapsed), running))
    if working and page.silence_seconds is not None:
        silence = texts.time_ago(page.silence_seconds)
        numbers.append(_Number(texts.silence_label(), silence))
    if working and page.remaining_seconds is not None:
        remaining = texts.approximate_duration(page.remaining_seconds)
        numbers.append(_Number(texts.remaining_label(), remaining))
    if working and page.operation is not None:
        operation = texts.operation(*page.operation)
        numbers.append(_Number(texts.operation_label(), operation))
    return numbers


def _debug(debug: DebugContext) -> dict[str, Any]:
    return {
        "heading": texts.debug_heading(),
        "pending": debug.pending,
        "count": texts.pending(len(debug.pending)),
        "advice": texts.debug_advice(),
        "command": debug.command,
        "error": debug.error,
        "leader": texts.leader(debug.leader) if debug.leader else None,
        "work": texts.work(debug.work) if debug.work else None,
    }


def status_page(
    details: Sequence[StatusDetail],
    status_url: str | None,
    continue_url: str,
    refresh_seconds: int,
    *,
    form_was_sent: bool = False,
    is_status_url: bool = False,
) -> HttpResponse:
    """Return the page about the least ready of the databases.

    `form_was_sent`: the page replaces the response to a form. `is_status_url`: the status itself
    was requested, not another URL that is blocked.
    """
    status = least_ready([detail.status for detail in details])
    detail = next(detail for detail in details if detail.status is status)
    run = status.run
    open_run = run if run and run.open else None
    operation = open_run.operation if open_run else None
    schemas = open_run.schemas if open_run else None
    return render(
        PageContext(
            state=PUBLIC_STATES[status.state],
            run=run.id if run and (run.open or status.error) else None,
            done=open_run.done if open_run else 0,
            total=open_run.total if open_run else 0,
            sites=(schemas.done, schemas.total) if schemas and schemas.total else None,
            progress=status.progress,
            operation=operation[:2] if operation else None,
            elapsed_seconds=open_run.age_seconds if open_run else None,
            silence_seconds=open_run.silence_seconds if open_run else None,
            remaining_seconds=detail.remaining_seconds,
            status_url=status_url,
            continue_url=continue_url,
            refresh_seconds=refresh_seconds,
            form_was_sent=form_was_sent,
            stay_on_page=is_status_url and status.ready,
            debug=_debug_context(status, details) if settings.DEBUG else None,
        )
    )


def _debug_context(status: Status, details: Sequence[StatusDetail]) -> DebugContext:
    pending = dict.fromkeys(name for each in details for name in each.status.pending)
    run = status.run
    leader = run.leader if run else None
    work = run.message if run and run.open and not status.error else None
    return DebugContext(tuple(pending), _COMMAND, status.error, leader, work)
