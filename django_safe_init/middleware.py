"""The middleware that answers health and status, and blocks requests until ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest

from django_safe_init.backends.tenants import Tenancy, get_tenancy
from django_safe_init.conf import Settings, effective_serve_mode, get_settings
from django_safe_init.serving.background.readiness import readiness
from django_safe_init.serving.http import responses
from django_safe_init.serving.http.views import PROBE_SECONDS, start_readiness

#: Seconds that a request may wait for the first status of a process. Without it, a new worker
#: would block its first user although all databases are ready.
REQUEST_SECONDS = 1.0


class InitializationMiddleware:
    """A middleware that answers `PATHS` and blocks other requests until this build is ready.

    Put it before all others: it answers whatever the state of the hosts, sessions and databases.
    Requests to `EXEMPT_PATHS` are not blocked. Once ready, a request costs one dictionary lookup
    and one attribute test. No request opens a connection: see `readiness`. With `MODE` or
    `SERVE` "off", and in a project's own tests, the middleware is not used.

    With `TENANT_READINESS` "shared", requests of tenants whose schema is behind are blocked. The
    host name tells the tenant before the project sees the request, or else the project's
    middleware does, before its view.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        settings = get_settings()
        if effective_serve_mode(settings) == "off":
            raise MiddlewareNotUsed("SAFE_INIT switches it off.")
        self.get_response = get_response
        self.responders = {
            path: getattr(responses, name)
            for name, path in settings.paths.items()
            if path is not None
        }
        self.exempt_paths = settings.exempt_paths
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)
        self.tenancies = _tenancies(settings)
        if self.tenancies:
            # Only then: under an asynchronous server each such method costs a request time.
            self.process_view = (
                self._process_view_async if self.is_async else self._process_view
            )
        readiness.install()

    def __call__(self, request: HttpRequest) -> Any:
        """Return a response of `PATHS`, 503, or the response of the project."""
        if self.is_async:
            return self._call_async(request)
        respond = self.responders.get(request.path_info)
        if readiness.complete:
            return respond(request) if respond else self.get_response(request)
        start_readiness(request)
        readiness.wait(self._max_wait(request, respond))
        respond = respond or self._blocked(request)
        return respond(request) if respond else self.get_response(request)

    async def _call_async(self, request: HttpRequest) -> Any:
        respond = self.responders.get(request.path_info)
        if readiness.complete:
            return respond(request) if respond else await self.get_response(request)
        start_readiness(request)
        await readiness.wait_async(self._max_wait(request, respond))
        respond = respond or self._blocked(request)
        return respond(request) if respond else await self.get_response(request)

    def _max_wait(
        self, request: HttpRequest, respond: responses.Responder | None
    ) -> float:
        if respond is responses.live or self._is_exempt(request):
            return 0
        return PROBE_SECONDS if respond else REQUEST_SECONDS

    def _blocked(self, request: HttpRequest) -> responses.Responder | None:
        """Return the responder for a blocked request, or None if the request may pass."""
        if readiness.complete or self._is_exempt(request):
            return None
        if not readiness.ready():
            return responses.service_unavailable
        is_blocked = any(
            readiness.is_blocked_host(each.alias, each.host_of(request) or "")
            for each in self.tenancies
        )
        return responses.tenant_unavailable if is_blocked else None

    def _process_view(self, request: HttpRequest, *view: Any) -> Any:
        """Return 503 if the project has found a tenant whose schema is behind."""
        if readiness.complete or self._is_exempt(request):
            return None
        is_blocked = any(
            readiness.is_blocked(each.alias, each.schema_of(request))
            for each in self.tenancies
        )
        return responses.tenant_unavailable(request) if is_blocked else None

    async def _process_view_async(self, request: HttpRequest, *view: Any) -> Any:
        return self._process_view(request)

    def _is_exempt(self, request: HttpRequest) -> bool:
        return request.path_info.startswith(self.exempt_paths)


def _tenancies(settings: Settings) -> list[Tenancy]:
    """Return the tenancies whose requests may be blocked one by one."""
    if settings.tenant_readiness != "shared":
        return []
    found = map(get_tenancy, settings.databases)
    return [each for each in found if each is not None]
