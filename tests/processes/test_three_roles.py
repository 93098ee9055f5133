"""The example project with separate roles for owner, application and administrator."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from example_project.embedded import EmbeddedServer

PROJECT = Path(__file__).parents[2] / "example_project"
ROLES = ("shop_application", "shop_owner")
NAME = "shop_of_three"


@pytest.fixture
def shop(server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """A server without the shop's database and roles. They are dropped afterwards."""
    yield server
    with server.connect() as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
        for role in ROLES:
            admin.execute(f"DROP ROLE IF EXISTS {role}")


def manage(
    server: EmbeddedServer, role: str, *arguments: str, **variables: str
) -> tuple[int, str]:
    """Run `manage.py` as the role. Return the exit code and the output."""
    url = f"postgres://{{}}@{server.host}:{server.port}/{{}}"
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "mysite.settings",
        "DATABASE_URL": url.format(role, NAME),
        "SHOP_THREE_ROLES": "1",
        "SHOP_SLOW_SECONDS": "0",
        **variables,
    }
    if "privileged" in arguments:
        environment["ADMIN_DATABASE_URL"] = url.format("postgres", "postgres")
    command = [sys.executable, str(PROJECT / "manage.py"), *arguments]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_three_roles(shop: EmbeddedServer) -> None:
    """Administrator, owner and application must each run their command, in this order."""
    owner, application = "shop_owner", "shop_application"
    code, printed = manage(shop, owner, "safe_migrate")
    assert code == 2
    assert "python manage.py safe_migrate --phase privileged" in printed
    assert "Traceback" not in printed

    privileged = ("safe_migrate", "--phase", "privileged")
    code, printed = manage(shop, owner, *privileged)
    assert code == 2
    assert "set OWNER_PASSWORD in the environment" in printed
    passwords = {"OWNER_PASSWORD": "one", "APPLICATION_PASSWORD": "two"}
    code, printed = manage(shop, owner, *privileged, **passwords)
    assert code == 0, printed
    assert "step catalog.grants_shop_application: done" in printed

    wait = ("safe_migrate", "--mode", "external")
    code, printed = manage(shop, application, *wait, "--timeout", "1")
    assert code == 3, printed
    code, printed = manage(shop, owner, "safe_migrate")
    assert code == 0, printed
    code, printed = manage(shop, application, *wait)
    assert code == 0, printed
    code, printed = manage(shop, application, "safe_init_status")
    assert (code, printed.splitlines()[0][:14]) == (0, "default: ready"), printed
