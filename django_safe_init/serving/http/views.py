"""Health and status as views, for projects without the middleware: see `urls`."""

from __future__ import annotations

import functools

from django.contrib.auth.decorators import login_not_required
from django.db import connections
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse

from django_safe_init.serving.background.readiness import readiness
from django_safe_init.serving.http import responses

#: Seconds that a probe may wait for the first status of a process. The kubelet waits a second.
PROBE_SECONDS = 0.03


def start_readiness(request: HttpRequest) -> None:
    """Start the threads that poll and, with `SERVE` "initialize", initialize.

    A request of Django's test client starts only the polling: it comes from a test, a shell or
    a script, in a process that serves nothing.
    """
    if hasattr(request, "_dont_enforce_csrf_checks"):
        readiness.start_polling()
    else:
        readiness.start()


def _view(respond: responses.Responder) -> responses.Responder:
    """Return the responder as a view that opens no transaction and needs no login."""

    @login_not_required
    @functools.wraps(respond)
    def view(request: HttpRequest) -> HttpResponse:
        start_readiness(request)
        if respond is not responses.live:
            readiness.wait(PROBE_SECONDS)
        return respond(request)

    for alias in connections.settings:
        non_atomic_requests(using=alias)(view)
    return view


live = _view(responses.live)
ready = _view(responses.ready)
status = _view(responses.status)
