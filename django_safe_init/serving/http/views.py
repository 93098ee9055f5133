"""Health and status as views, for projects without the middleware: see `urls`."""

from __future__ import annotations

import functools

from django.contrib.auth.decorators import login_not_required
from django.db import connections
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse

from django_safe_init.serving.background.readiness import readiness
from django_safe_init.serving.http import responses

#: How long a probe may wait for the first news of a process; the kubelet gives it a second.
PROBE_SECONDS = 0.03


def watch_for(request: HttpRequest) -> None:
    """Look at the databases, and initialize if that is a server's work and this is one.

    Django's test client, in a shell or a script, is a visitor without a server.
    """
    if hasattr(request, "_dont_enforce_csrf_checks"):
        readiness.look()
    else:
        readiness.watch()


def _view(reply: responses.Reply) -> responses.Reply:
    """The reply as a view that opens no transaction and wants nobody to log in."""

    @login_not_required
    @functools.wraps(reply)
    def view(request: HttpRequest) -> HttpResponse:
        watch_for(request)
        if reply is not responses.live:
            readiness.wait(PROBE_SECONDS)
        return reply(request)

    for alias in connections.settings:
        non_atomic_requests(using=alias)(view)
    return view


live = _view(responses.live)
ready = _view(responses.ready)
status = _view(responses.status)
