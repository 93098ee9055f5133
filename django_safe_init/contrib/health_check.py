"""A check for django-health-check. Needs the extra `health-check`.

It reads this process's `readiness`, and opens no connection.
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
    """A check that is healthy once the database `alias` is ready for this build.

    Its messages are fixed texts without errors, SQL or names. In a project's own tests it is
    healthy.
    """

    #: A database of `SAFE_INIT["DATABASES"]`. The only field that is published.
    alias: str = "default"
    #: The time that a probe may wait for the first status of its process.
    timeout: timedelta = field(default=timedelta(seconds=0.5), repr=False)

    async def run(self) -> None:
        """Return if the database is ready, else raise `ServiceUnavailable`."""
        settings = get_settings()
        if in_project_tests(settings):
            return
        if self.alias not in settings.databases:
            raise ServiceUnavailable('Not a database of SAFE_INIT["DATABASES"].')
        readiness.start_polling()  # not `start`: a command may run the check
        await readiness.wait_async(self.timeout.total_seconds())
        if not readiness.ready(self.alias):
            status = readiness.status(self.alias) or Status.unreachable(self.alias)
            raise ServiceUnavailable(str(MESSAGES[PUBLIC_STATES[status.state]]))

    async def get_result(self, *args: Any, **kwargs: Any) -> HealthCheckResult:
        """Return the result as the base class does, but log no traceback for each probe.

        The poller logs each change of the status once.
        """
        start = timeit.default_timer()
        error: HealthCheckException | None = None
        try:
            await self.run()
        except HealthCheckException as exc:
            error = exc
        return HealthCheckResult(self, error, timeit.default_timer() - start)
