"""Web servers of the project with tenants, and requests to the hosts of tenants."""

from __future__ import annotations

import http.client
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from tests.processes.harness import Replica
from tests.serving.harness import WARNINGS, Answer
from tests.support import PATIENCE, wait_until
from tests.tenants.harness import TenantProject

READY, STATUS, BOXES = "/health/db", "/api/db/status", "/boxes"
#: The headers of a browser.
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
_COMMANDS = {
    "gunicorn": (
        *("gunicorn", "django.core.wsgi:get_wsgi_application()", "--no-control-socket"),
        *("--bind", "127.0.0.1:0"),
    ),
    "uvicorn": (
        *("uvicorn", "django.core.asgi:get_asgi_application", "--factory"),
        *("--port", "0", "--lifespan", "off"),
    ),
}


class TenantServer:
    """A web server of the project, which ends with the test."""

    def __init__(
        self, project: TenantProject, kind: str = "gunicorn", **variables: str
    ) -> None:
        command = [sys.executable, "-m", *_COMMANDS[kind]]
        path = os.pathsep.join([str(project.root), os.environ.get("PYTHONPATH", "")])
        environment = project.environment(
            **{"PYTHONPATH": path, "PYTHONWARNINGS": WARNINGS, **variables}
        )
        output = project.directory / f"replica-{len(project.replicas)}"
        self.replica = Replica(command, environment, output)
        project.replicas.append(self.replica)
        project.wait_until(self._ports, "a server")
        self.port = self._ports()[0]

    def _ports(self) -> list[int]:
        printed = self.replica.stderr + self.replica.stdout
        return [int(port) for port in re.findall(r"http://127\.0\.0\.1:(\d+)", printed)]

    def get(
        self,
        path: str,
        tenant: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request to the host of the tenant, or to a host of none."""
        host = f"{tenant or 'nobody'}.localhost:{self.port}"
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=PATIENCE
        )
        try:
            connection.request("GET", path, headers={"Host": host, **(headers or {})})
            response = connection.getresponse()
            body = response.read().decode()
        finally:
            connection.close()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, body)

    def wait_for(
        self,
        condition: Callable[[Answer], Any],
        path: str = READY,
        tenant: str | None = None,
    ) -> Answer:
        """Wait for the first answer that fulfills the condition; return it."""
        last: list[Answer] = []

        def poll() -> Answer | None:
            last[:] = [self.get(path, tenant)]
            return last[0] if condition(last[0]) else None

        return wait_until(poll, message=lambda: f"{last} of {self.replica}")  # type: ignore[return-value]  # never None

    def wait_until_ready(self) -> None:
        self.wait_for(lambda answer: answer.status == 200)

    def end(self) -> None:
        """Send SIGTERM, and fail unless the server exits cleanly."""
        self.replica.kill(signal.SIGTERM)
        assert self.replica.wait() in (0, 143), self.replica


def add_hosts(project: TenantProject, *tenants: str) -> None:
    """Give each tenant the host `TENANT.localhost`."""
    folder = {"django_pgschemas": ", folder, redirect_to_primary"}.get(
        project.package, ""
    )
    values = ", '', false" if folder else ""
    for name in tenants:
        project.database.rows(
            f"INSERT INTO {project.shared}.customers_domain"
            f" (domain, is_primary, tenant_id{folder})"
            f" SELECT %s, true, id{values} FROM {project.shared}.customers_customer"
            " WHERE schema_name = %s",
            f"{name}.localhost",
            name,
        )


#: The code of the application for a new tenant.
SIGN_UP = """
from customers.models import Customer, Domain
tenant = Customer(schema_name={name!r})
tenant.save()
Domain.objects.create(tenant=tenant, domain="{name}.localhost")
"""
