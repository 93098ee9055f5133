"""The project of the samples, in a separate folder and a separate database."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import Any

import pytest

from example_project.embedded import EmbeddedServer, bin_dir
from tests.support import Database, wait_until

HERE = Path(__file__).parent
SHOP = Path("shop/migrations")
SQLITE = """
import pathlib

BASE_DIR = pathlib.Path(__file__).resolve().parent.parent
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}
}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and "test_running" in item.path.name:
            item.add_marker(pytest.mark.process)


@pytest.fixture(autouse=True)
def same_python() -> Iterator[None]:
    """Restore the Python of `multiprocessing`, which a sample may change."""
    before = get_executable()
    yield
    multiprocessing.set_executable(before)


class Shell:
    """Runs shell commands as a reader would, in the project's folder."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        programs = f"{Path(sys.executable).parent}:{bin_dir(18)}"
        self.environment = {
            **{k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"},
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            **variables,
        }
        self._groups: list[int] = []

    def run(self, text: str, exit_code: int | None = 0) -> str:
        """Run the commands. Return their output on both streams."""
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._groups.append(process.pid)
        try:
            output, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            pytest.fail(f"The commands ran for longer than 60 s:\n{text}{output}")
        assert exit_code in (None, process.returncode), (process.returncode, output)
        return output

    def end(self) -> None:
        """Kill the background processes that still run."""
        for group in self._groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


def address(server: EmbeddedServer) -> dict[str, str]:
    """Return the server's address as variables of libpq."""
    return {
        "PGHOST": server.host,
        "PGPORT": str(server.port),
        "PGUSER": "postgres",
    }


@pytest.fixture
def make_shell(
    tmp_path: Path, server: EmbeddedServer
) -> Iterator[Callable[..., Shell]]:
    """Make shells in an empty folder that know the server. Kill their processes at the end."""
    made: list[Shell] = []

    def make(**variables: str) -> Shell:
        folder = tmp_path / f"shell-{len(made)}"
        folder.mkdir()
        made.append(Shell(folder, {**address(server), **variables}))
        return made[-1]

    yield make
    for shell in made:
        shell.end()


@pytest.fixture(scope="session")
def initialized(server: EmbeddedServer, tmp_path_factory: Any) -> str:
    """Return a template: the name of a database that the project's `safe_migrate` initialized."""
    name = f"samples_{os.getpid()}"
    server.create_database(name, "template0")
    folder = tmp_path_factory.mktemp("initialized") / "project"
    shutil.copytree(HERE / "project", folder)
    names = {"PGDATABASE": name, "ANALYTICS_DATABASE": name}
    Shell(folder, {**address(server), **names}).run("python manage.py safe_migrate")
    return name


@pytest.fixture
def project(
    make_database: Callable[..., Database],
    make_shell: Callable[..., Shell],
    initialized: str,
) -> Callable[..., Shell]:
    """Make the project in a situation: "ready", "empty", "sqlite", or one of `situations`."""

    def make(situation: str) -> Shell:
        template = "template0" if situation == "empty" else initialized
        shell = make_shell(
            PGDATABASE=make_database(template).name,
            ANALYTICS_DATABASE=make_database().name,
        )
        shutil.copytree(HERE / "project", shell.folder, dirs_exist_ok=True)
        if situation == "sqlite":
            with (shell.folder / "mysite" / "settings.py").open("a") as settings:
                settings.write(SQLITE)
        elif situation not in ("ready", "empty"):
            source = HERE / "situations" / f"{situation}.py"
            shutil.copy(source, shell.folder / SHOP / "0003_stock.py")
            if situation == "hanging":
                shell.run("python manage.py safe_migrate > leader.log 2>&1 &")
                status = "python manage.py safe_init_status"
                wait_until(lambda: "0003_stock" in shell.run(status, exit_code=None))
            else:
                shell.run("python manage.py safe_migrate", exit_code=None)
        return shell

    return make
