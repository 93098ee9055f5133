"""A check for django-health-check: is the database what this build needs?

It reads what this process knows (`readiness`) and opens no connection. Nothing else imports
this module; it needs the extra `health-check`.
"""

from __future__ import annotations

import timeit
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from health_check.base import HealthCheck, HealthCheckResult
from health_check.exceptions import HealthCheckException, ServiceUnavailable

from django_safe_init.conf import get_settings, in_project_tests
from django_safe_init.serving.background.readiness import readiness
from django_safe_init.serving.http.payloads import MESSAGES, PUBLIC_STATES
from django_safe_init.status import Status


@dataclass
class SafeInit(HealthCheck):  # type: ignore[misc]  # the package has no types
    """Healthy once everything that this build knows is done in the database `alias`.

    Its messages are fixed texts: they hold no error, no SQL and no name. Healthy in a
    project's own tests.
    """

    #: A database of `SAFE_INIT["DATABASES"]`. The only field that is published.
    alias: str = "default"
    #: How long a probe may wait for the first news of its process.
    timeout: timedelta = field(default=timedelta(seconds=0.5), repr=False)

    async def run(self) -> None:
        """Return if the database is ready, else raise `ServiceUnavailable`."""
        settings = get_settings()
        if in_project_tests(settings):
            return
        if self.alias not in settings.databases:
            raise ServiceUnavailable('Not a database of SAFE_INIT["DATABASES"].')
        readiness.look()  # only: it may be a command that asks
        await readiness.await_news(self.timeout.total_seconds())
        if not readiness.ready(self.alias):
            status = readiness.status(self.alias) or Status.unreachable(self.alias)
            raise ServiceUnavailable(str(MESSAGES[PUBLIC_STATES[status.state]]))

    async def get_result(self, *args: Any, **kwargs: Any) -> HealthCheckResult:
        """As the base class has it, without a traceback in the log for every probe.

        What changes is logged once, by who watches the database.
        """
        start = timeit.default_timer()
        error: HealthCheckException | None = None
        try:
            await self.run()
        except HealthCheckException as exc:
            error = exc
        return HealthCheckResult(self, error, timeit.default_timer() - start)
