"""Development servers that reload: only their first processes initialize."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.processes.harness import PROJECT, Fleet
from tests.serving.harness import BROWSER, READY, Answer, Server
from tests.serving.test_initialize import LOGGING
from tests.support import Database, free_port, wait_until

#: Tells which text of the file a process has loaded.
MIDDLEWARE = """\
def middleware(get_response):
    def respond(request):
        response = get_response(request)
        response["X-Loaded"] = "{version}"
        return response
    return respond
"""
HALF_WRITTEN = """\
from django.db import migrations

class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RemoveField("entry", "text")]
"""
#: The command of each development server, and its variables. `{port}` and `{folder}` are
#: replaced.
ADDRESS = "127.0.0.1:{port}"
SERVERS: dict[str, tuple[list[str], dict[str, str]]] = {
    "runserver": ([str(PROJECT / "manage.py"), "runserver", ADDRESS], {}),
    "runserver --noreload": (
        [str(PROJECT / "manage.py"), "runserver", "--noreload", ADDRESS],
        {},
    ),
    "gunicorn": (
        ["-m", "gunicorn", "wsgi", "--reload", f"--bind={ADDRESS}"],
        {},
    ),
    "gunicorn by configuration": (
        ["-m", "gunicorn", "wsgi", f"--bind={ADDRESS}"],
        {"GUNICORN_CMD_ARGS": "--reload --workers=2"},
    ),
    "uvicorn": (
        [
            "-m",
            "uvicorn",
            "serving:application",
            "--reload",
            "--reload-dir={folder}",
            "--port={port}",
        ],
        {},
    ),
    "uvicorn by a variable": (
        [
            "-m",
            "uvicorn",
            "serving:application",
            "--reload-dir={folder}",
            "--port={port}",
        ],
        {"UVICORN_RELOAD": "true"},
    ),
    "hypercorn": (
        ["-m", "hypercorn", "serving:application", "--reload", f"--bind={ADDRESS}"],
        {},
    ),
}


class Developer:
    """A project that a developer edits, and its server."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet = fleet
        self.folder = folder
        self.migrations = folder / "written"
        shutil.copytree(PROJECT / "scenarios/portable", self.migrations)
        self.module = folder / "changing.py"
        self.app = folder / "edited"
        self.app.mkdir()
        for name in ("__init__.py", "models.py"):
            (self.app / name).touch()
        self.save("1")

    def save(self, version: str) -> None:
        """Save a file that the server has loaded."""
        self.module.write_text(MIDDLEWARE.format(version=version))

    def save_migration(self) -> None:
        (self.migrations / "0002_half_written.py").write_text(HALF_WRITTEN)

    def serve(self, name: str) -> Server:
        port = free_port()
        command, variables = SERVERS[name]
        server = Server(
            self.fleet,
            *(word.format(port=port, folder=self.folder) for word in command),
            listens=False,
            env={
                "PYTHONPATH": self.path,
                "PYTHONWARNINGS": "ignore",
                "PYTHONDONTWRITEBYTECODE": "1",
                "SCENARIO_APPS": json.dumps(["edited", "django_safe_init"]),
                **variables,
            },
            project=self.settings,
            safe_init={"SERVE": "initialize"},
        )
        server.port = port
        return server

    @property
    def path(self) -> str:
        folders = [str(PROJECT), str(self.folder), os.environ.get("PYTHONPATH", "")]
        return os.pathsep.join(filter(None, folders))

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "DEBUG": True,
            "LOGGING": LOGGING,
            "MIDDLEWARE": ["changing.middleware", Server.MIDDLEWARE],
            "MIGRATION_MODULES": {"shop": "written"},
        }

    def migrate(self) -> None:
        """Run the command that the page names."""
        run = self.fleet.run(
            "safe_migrate",
            project=self.settings,
            env={"PYTHONPATH": self.path},
        )
        assert run.wait() == 0, run


@pytest.fixture
def developer(fleet: Fleet, tmp_path: Path) -> Developer:
    folder = tmp_path / "developed"
    folder.mkdir()
    return Developer(fleet, folder)


def answer(server: Server, path: str = READY) -> Answer | None:
    """Return the answer for a browser; None while the server replaces its process."""
    with suppress(OSError, HTTPException):
        return server.get(path, BROWSER)
    return None


def wait_for(server: Server, version: str, status: int) -> Answer:
    """Wait for an answer with this status from a process that has loaded this version."""

    def poll() -> Answer | None:
        found = answer(server)
        loaded = found and found.headers.get("x-loaded") == version
        return found if found and loaded and found.status == status else None

    return wait_until(poll, message=lambda: f"{version} {status} of {server.replica}")  # type: ignore[return-value]  # never None


def end(server: Server) -> None:
    server.replica.kill(signal.SIGINT)
    server.replica.wait()


@pytest.mark.parametrize("name", [name for name in SERVERS if "--no" not in name])
def test_a_half_written_migration_is_saved(
    developer: Developer, database: Database, name: str
) -> None:
    """The first start initializes. A reload applies nothing, and its page says what is pending."""
    server = developer.serve(name)
    wait_for(server, "1", 200)
    developer.save_migration()
    developer.save("2")
    wait_for(server, "2", 503)
    wait_until(
        lambda: "this process applies nothing" in server.replica.stderr,
        message=lambda: str(server.replica),
    )
    wait_until(lambda: "shop.0002_half_written" in page(server))
    assert "python manage.py safe_migrate" in page(server)
    assert [run["outcome"] for run in database.runs()] == ["ready"]
    assert database.applied_once() == ["shop.0001_initial"]
    developer.migrate()
    wait_for(server, "2", 200)
    end(server)


def page(server: Server) -> str:
    found = answer(server, "/entries/")
    return found.body if found else ""


def test_a_reload_before_the_first_request(
    developer: Developer, database: Database
) -> None:
    """A process that was never asked counts as the first one, so its successor is a reload."""
    server = developer.serve("runserver")
    wait_until(lambda: "Quit the server" in server.replica.stdout)

    def reloads() -> bool:
        developer.save("2")
        return "changing.py changed, reloading" in server.replica.stderr

    wait_until(reloads)
    wait_for(server, "2", 503)
    wait_until(
        lambda: "this process applies nothing" in server.replica.stderr,
        message=lambda: str(server.replica),
    )
    assert "shop.0001_initial" in page(server)
    assert not database.has_table("django_safe_init_run")
    developer.migrate()
    wait_for(server, "2", 200)
    end(server)


#: A server's line about a reload.
RELOADS = "changed, reloading|Reloading\\.\\.\\.|Worker reloading"

#: A reloader misses a change that comes before it first checks the file.
SECONDS_BETWEEN_SAVES = 5.0


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("runserver", "models.py"),
        ("runserver", "__init__.py"),
        ("gunicorn", "__init__.py"),
        ("uvicorn", "__init__.py"),
    ],
)
def test_the_first_process_fails(
    developer: Developer, database: Database, fleet: Fleet, name: str, broken: str
) -> None:
    """The process that loads the repaired code is a reload, so it applies nothing.

    The folder's `__init__.py` is loaded before this package.
    """
    fleet.tracebacks = True
    file = developer.app / broken
    file.write_text("def broken(")
    server = developer.serve(name)
    wait_until(lambda: "SyntaxError" in server.replica.stderr)

    saved_at = 0.0

    def reloads() -> bool:
        nonlocal saved_at
        if time.monotonic() - saved_at > SECONDS_BETWEEN_SAVES:
            file.write_text("")
            saved_at = time.monotonic()
        return re.search(RELOADS, server.replica.stderr) is not None

    wait_until(reloads)
    wait_for(server, "1", 503)
    wait_until(
        lambda: "this process applies nothing" in server.replica.stderr,
        message=lambda: str(server.replica),
    )
    assert "shop.0001_initial" in page(server)
    assert not database.has_table("django_safe_init_run")
    end(server)


def test_each_start_without_a_reloader(
    developer: Developer, database: Database
) -> None:
    """A server without a reloader initializes whenever it is started, also by a person."""
    for count in (1, 2):
        server = developer.serve("runserver --noreload")
        wait_for(server, "1", 200)
        assert len(database.runs()) == count
        end(server)
        developer.save_migration()
