"""Answers health and status before everything else, and holds requests back until ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest

from django_safe_init.conf import effective_serve_mode, get_settings
from django_safe_init.serving.background.readiness import readiness
from django_safe_init.serving.http import responses
from django_safe_init.serving.http.views import PROBE_SECONDS, watch_for

#: How long a request that would be held back may wait for the first news of a process: else a
#: fresh worker would turn away its first user, although all is ready.
REQUEST_SECONDS = 1.0


class InitializationMiddleware:
    """The first middleware of a project: put it before all others.

    It answers `PATHS` whatever the host, the session or the database may be, and holds all
    other requests back, except `EXEMPT_PATHS`, until this build is ready. From then on it
    costs a dictionary look-up and an attribute test. No request opens a connection: see
    `readiness`. With `MODE` or `SERVE` "off", and in a project's own tests, it is not used.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        settings = get_settings()
        if effective_serve_mode(settings) == "off":
            raise MiddlewareNotUsed("SAFE_INIT switches it off.")
        self.get_response = get_response
        self.replies = {
            path: getattr(responses, name)
            for name, path in settings.paths.items()
            if path is not None
        }
        self.exempt_paths = settings.exempt_paths
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)
        readiness.prepare()

    def __call__(self, request: HttpRequest) -> Any:
        """Answer, hold back or let through."""
        if self.is_async:
            return self._call_async(request)
        reply = self.replies.get(request.path_info)
        if readiness.complete:
            return reply(request) if reply else self.get_response(request)
        watch_for(request)
        readiness.wait(self._patience(request, reply))
        reply = reply or self._hold(request)
        return reply(request) if reply else self.get_response(request)

    async def _call_async(self, request: HttpRequest) -> Any:
        reply = self.replies.get(request.path_info)
        if readiness.complete:
            return reply(request) if reply else await self.get_response(request)
        watch_for(request)
        await readiness.await_news(self._patience(request, reply))
        reply = reply or self._hold(request)
        return reply(request) if reply else await self.get_response(request)

    def _patience(self, request: HttpRequest, reply: responses.Reply | None) -> float:
        if reply is responses.live or self._is_exempt(request):
            return 0
        return PROBE_SECONDS if reply else REQUEST_SECONDS

    def _hold(self, request: HttpRequest) -> responses.Reply | None:
        passes = readiness.complete or self._is_exempt(request)
        return None if passes else responses.service_unavailable

    def _is_exempt(self, request: HttpRequest) -> bool:
        return request.path_info.startswith(self.exempt_paths)
