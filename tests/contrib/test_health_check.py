"""The check for django-health-check."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.db import connections
from django.test import Client

from django_safe_init import initialize
from django_safe_init.exceptions import InitializationFailed
from django_safe_init.serving.background import poller
from django_safe_init.serving.background.readiness import readiness
from tests.support import Database, wait_until

pytest.importorskip("health_check")

from health_check.exceptions import ServiceUnavailable

from django_safe_init.contrib.health_check import SafeInit

NAME = "SafeInit(alias='default')"
NOT_YET = "Unavailable: The database has not been initialized yet."


@pytest.fixture
def project(
    django_database: Database, small_shop: Any, settings: Any, fresh_readiness: None
) -> Database:
    """A project that shows the check."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "health_check"]
    settings.ROOT_URLCONF = "tests.contrib.health_urls"
    settings.TEMPLATES = [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
        }
    ]
    return django_database


@pytest.fixture
def ready_project(project: Database) -> Database:
    call_command("safe_migrate", verbosity=0)
    return project


def probe(kind: str, status: int) -> str:
    """Return the view's response in the format `kind`."""
    response = Client().get("/health/", headers={"accept": kind})
    assert response.status_code == status, response.content
    return response.content.decode()


# Results


def test_ready(ready_project: Database) -> None:
    """A ready database is healthy, in every format."""
    assert probe("application/json", 200) == f'{{"{NAME}": "OK"}}'
    assert "SafeInit" in probe("text/html", 200)
    metric = 'django_health_check_status{check="SafeInit",alias="default"} 1'
    assert metric in probe("application/openmetrics-text", 200)


def test_not_ready(project: Database) -> None:
    """A database that lacks migrations is unhealthy, in every format, with a fixed text."""
    assert probe("application/json", 500) == f'{{"{NAME}": "{NOT_YET}"}}'
    assert "has not been initialized yet" in probe("text/html", 500)
    metric = 'django_health_check_status{check="SafeInit",alias="default"} 0'
    assert metric in probe("application/openmetrics-text", 200)


def test_failed(project: Database, small_shop: Any) -> None:
    """A failed run is unhealthy, without the text of its error."""

    def fail(connection: Any) -> None:
        raise ValueError("a secret")

    small_shop.run("0003_fail", fail)
    with pytest.raises(InitializationFailed):
        initialize()
    for kind in ("application/json", "text/html", "text/plain"):
        body = probe(kind, 500)
        assert "The initialization of the database failed." in body
        assert "secret" not in body
        assert "0003" not in body


def test_becomes_ready(project: Database) -> None:
    """A database that becomes ready is healthy."""
    assert NOT_YET in probe("application/json", 500)
    call_command("safe_migrate", verbosity=0)
    wait_until(lambda: Client().get("/health/").status_code == 200)


def test_unwatched_alias(project: Database) -> None:
    """An alias outside of SAFE_INIT["DATABASES"] is an error, not an endless wait."""
    response = Client().get("/nowhere/?format=text")
    assert response.status_code == 500
    assert b'Not a database of SAFE_INIT["DATABASES"].' in response.content


def test_in_a_projects_own_tests(project: Database, settings: Any) -> None:
    """In a project's own tests the check is healthy, and starts no thread."""
    settings.SAFE_INIT = {}
    assert "OK" in probe("application/json", 200)
    assert not [t for t in threading.enumerate() if t.name.startswith("safe_init")]


# Side effects


def test_only_the_alias_is_published() -> None:
    """The repr and the labels contain only the alias."""
    check = SafeInit(alias="analytics", timeout=timedelta(seconds=3))
    assert repr(check) == "SafeInit(alias='analytics')"
    assert check.labels == {"check": "SafeInit", "alias": "analytics"}


def test_no_connections(ready_project: Database, monkeypatch: Any) -> None:
    """A hundred probes of a ready process open no connection."""
    probe("application/json", 200)
    connections["default"].close()

    def refuse(*args: Any) -> None:
        raise AssertionError("a probe opened a connection")

    monkeypatch.setattr(poller, "open_reader", refuse)
    monkeypatch.setattr(connections["default"], "connect", refuse)
    for _ in range(100):
        probe("application/json", 200)
    assert connections["default"].connection is None


def test_no_traceback_in_the_log(project: Database, caplog: Any) -> None:
    """Many failing probes are logged once, in one line."""
    caplog.set_level(logging.DEBUG)
    for _ in range(10):
        probe("application/json", 500)
    assert not [record for record in caplog.records if record.exc_info]
    ours = [r for r in caplog.records if r.name in ("django_safe_init", "health_check")]
    assert [r.getMessage() for r in ours].count(
        "default is not ready: not initialized for this build"
    ) == 1
    assert len(ours) < 5


def test_hanging_server(project: Database, log_in_as: Callable[..., None]) -> None:
    """A database server that never answers does not delay a probe."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        log_in_as(HOST="127.0.0.1", PORT=listener.getsockname()[1])
        with pytest.raises(ServiceUnavailable):
            asyncio.run(SafeInit(timeout=timedelta(seconds=0.2)).run())
        [accepted, _] = listener.accept()
        accepted.close()
        readiness.reset()


# `manage.py health_check`


class Silent(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def address(project: Database) -> Iterator[str]:
    """The address of an HTTP server that serves the project."""
    with make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Silent) as (
        server
    ):
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def health_check(*arguments: str, capsys: Any) -> tuple[int, str]:
    """Return the exit code and the output of `manage.py health_check`."""
    capsys.readouterr()
    code: Any = 0
    try:
        call_command("health_check", "health", *arguments, forwarded_host="127.0.0.1")
    except SystemExit as exc:
        code = exc.code
    return code, "".join(capsys.readouterr()).strip()


def test_command(address: str, settings: Any, capsys: Any) -> None:
    """The command exits with 1 and the reason until the database is ready, then with 0."""
    settings.ALLOWED_HOSTS = ["127.0.0.1"]
    assert health_check(address, capsys=capsys) == (1, f"{NAME}: {NOT_YET}")
    call_command("safe_migrate", verbosity=0)
    wait_until(lambda: health_check(address, capsys=capsys) == (0, f"{NAME}: OK"))


def test_command_without_a_server(ready_project: Database, capsys: Any) -> None:
    """The command checks the database itself, and waits a moment for its first status."""
    wait_until(lambda: health_check("--no-http", capsys=capsys) == (0, f"{NAME}: OK"))
