"""A small site that is being initialized: the page, the status, and the requested page."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from django.utils import translation

import django_safe_init
from django_safe_init.serving.http.page import PageContext, render

STATUS = "/api/db/status"
BLANK = "/blank"
SCRIPT = "/static/django_safe_init/status.js"
MODULE = Path(django_safe_init.__file__).parent / "static/django_safe_init/status.js"
WORKING = PageContext(
    "migrating",
    status_url=STATUS,
    done=5,
    total=14,
    progress=35,
    elapsed_seconds=102,
    silence_seconds=1,
    refresh_seconds=1,
)
_HTML = "text/html; charset=utf-8"


@dataclass
class Site:
    """A site whose responses a test can change, and which records its requests."""

    view: PageContext = WORKING
    language: str = "en"
    #: The response to every status request instead of the right one: status line, body.
    instead: tuple[str, str] | None = None
    #: True if the status is also available as a page.
    has_page: bool = True
    #: True if other origins may read the status.
    shared: bool = True
    message: str = "The database is being prepared."
    #: More pages by path, available in every state.
    pages: dict[str, str] = field(
        default_factory=lambda: {BLANK: "<!doctype html><title>blank</title>"}
    )
    #: The times of the status requests for JSON.
    asked: int = 0
    #: All other requests, with their query.
    loaded: list[str] = field(default_factory=list)
    url: str = ""

    def becomes(self, state: str, **changes: Any) -> None:
        """Show this state from now on."""
        self.view = replace(self.view, state=state, **changes)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        path, self.method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        html = "text/html" in environ.get("HTTP_ACCEPT", "")
        if path == STATUS:
            status, kind, body = self._status(html)
        elif path == SCRIPT:
            status, kind, body = "200 OK", "text/javascript", MODULE.read_text()
        elif path in self.pages:
            status, kind, body = "200 OK", _HTML, self.pages[path]
        else:
            status, kind, body = self._wanted(path, environ["QUERY_STRING"])
        return self._send(start_response, status, kind, body, path)

    def _status(self, html: bool) -> tuple[str, str, str]:
        if not html:
            self.asked += 1
        if self.instead is not None:
            return self.instead[0], "text/plain", self.instead[1]
        if html and self.has_page:
            return "200 OK", _HTML, self._page(self.view)
        progress = 100 if self.view.state == "ready" else self.view.progress
        body = {"state": self.view.state, "progress": progress, "message": self.message}
        return "200 OK", "application/json", json.dumps(body)

    def _wanted(self, path: str, query: str) -> tuple[str, str, str]:
        wanted = f"{path}?{query}" if query else path
        self.loaded.append(wanted)
        if self.view.state == "ready":
            return (
                "200 OK",
                _HTML,
                f"<!doctype html><title>{wanted}</title><main>wanted",
            )
        sent = self.method == "POST"
        view = replace(self.view, continue_url=wanted, form_was_sent=sent)
        return "503 Service Unavailable", _HTML, self._page(view)

    def _page(self, view: PageContext) -> str:
        with translation.override(self.language):
            self.policy = (response := render(view))["Content-Security-Policy"]
        return response.content.decode()

    def _send(
        self, start_response: Any, status: str, kind: str, body: str, path: str
    ) -> list[bytes]:
        headers = [("Content-Type", kind)]
        if path == STATUS and self.shared:
            headers.append(("Access-Control-Allow-Origin", "*"))
        if kind == _HTML and "data-state" in body:
            headers.append(("Content-Security-Policy", self.policy))
        start_response(status, headers)
        return [body.encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Log no request."""


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serve the site on a free port until the end of the block."""
    server = make_server("127.0.0.1", 0, site, _Server, _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
