"""A process that a development server has reloaded, told from the server's first ones."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from django_safe_init.serving.background import readiness as readiness_module
from django_safe_init.serving.background import reloads
from django_safe_init.serving.background.readiness import readiness
from django_safe_init.serving.background.reloads import (
    ReloadDetector,
    reloading_server,
    server_seconds,
    started_at,
)
from tests.support import PATIENCE
from tests.unit.conftest import SilentPoller

#: Records itself as a process of its parent, prints if it is a reload, and waits.
PROCESS = """\
from django_safe_init.serving.background.reloads import ReloadDetector
detector = ReloadDetector()
detector.register()
detector.register()
print(detector.is_reload, flush=True)
input()
"""


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "RUN_MAIN",
        "WERKZEUG_RUN_MAIN",
        "WATCHFILES_CHANGES",
        "GRANIAN_RELOAD",
        "SERVER_SOFTWARE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["manage.py"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, which is empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@contextmanager
def process(**variables: str) -> Iterator[bool]:
    """Start a process of this server; yield True if it is a reload. It ends with the block."""
    command = [sys.executable, "-c", PROCESS]
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        **variables,
    }
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as started:
        assert started.stdin is not None
        assert started.stdout is not None
        yield started.stdout.readline() == b"True\n"
        started.stdin.close()


@pytest.mark.parametrize("variable", ["RUN_MAIN", "WERKZEUG_RUN_MAIN"])
def test_the_successor_of_a_process(folder: Path, variable: str) -> None:
    """Processes that serve side by side are first ones; the successor of one is a reload."""
    with (
        process(**{variable: "true"}) as first,
        process(**{variable: "true"}) as second,
    ):
        assert (first, second) == (False, False)
    with process(**{variable: "true"}) as third:
        assert third


def test_a_process_of_no_server(folder: Path) -> None:
    """A process that a person starts is no reload, and leaves no file."""
    for _ in range(2):
        with process() as reload:
            assert not reload
    assert list(folder.iterdir()) == []


def test_files_of_servers_that_have_exited(folder: Path) -> None:
    """The next server deletes the file of a server that has exited."""
    old = folder / f"django-safe-init-{os.geteuid()}-server-{2**22 + 1}-7.txt"
    old.write_text("1 7\n")
    with process(RUN_MAIN="true"):
        assert not old.exists()
        [file] = folder.iterdir()
    assert f"-server-{os.getpid()}-{started_at(os.getpid())}.txt" in file.name


def test_a_file_that_cannot_be_deleted(folder: Path) -> None:
    """A folder with the name of an old file remains."""
    old = folder / f"django-safe-init-{os.geteuid()}-server-{2**22 + 1}-7.txt"
    old.mkdir()
    with process(RUN_MAIN="true") as reload:
        assert not reload
    assert old.exists()


def test_no_place_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a place for the file, each process of a reloading server counts as a reload."""
    monkeypatch.setattr(reloads, "temporary_folder", lambda: "/dev/null")
    monkeypatch.setenv("RUN_MAIN", "true")
    detector = ReloadDetector()
    assert not detector.is_reload
    detector.register()
    assert detector.is_reload


def test_a_file_that_cannot_be_locked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that cannot record itself counts as a reload."""

    def refuse(*arguments: Any) -> None:
        raise OSError

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setenv("RUN_MAIN", "true")
    detector = ReloadDetector()
    detector.register()
    assert detector.is_reload


def test_the_reloader_of_runserver(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reloader of Django's `runserver` creates the file.

    Without that file its processes are reloads: it failed before it loaded this package.
    """
    monkeypatch.setattr(sys, "argv", ["manage.py", "runserver"])
    monkeypatch.setattr(os, "getppid", os.getpid)
    orphan, first = ReloadDetector(), ReloadDetector()
    with monkeypatch.context() as served:
        served.setenv("RUN_MAIN", "true")
        orphan.register_early()
    assert orphan.is_reload
    ReloadDetector().register_early()
    [file] = folder.iterdir()
    assert file.read_text() == ""
    monkeypatch.setenv("RUN_MAIN", "true")
    first.register_early()
    assert not first.is_reload
    assert file.read_text() == f"{os.getpid()} {started_at(os.getpid())}\n"


def test_a_reloader_without_a_place_for_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reloader starts without the file, too."""
    monkeypatch.setattr(reloads, "temporary_folder", lambda: "/dev/null")
    ReloadDetector().register_early()
    assert list(folder.iterdir()) == []


#: The application's configuration is loaded; then the models fail.
BROKEN = """\
from django.conf import settings
settings.configure(INSTALLED_APPS=["django_safe_init"])
import sys
import django.apps.config
sys.argv = sys.argv[1:]
def broken(config):
    raise SyntaxError
django.apps.config.AppConfig.import_models = broken
import django
try:
    django.setup()
except SyntaxError:
    print("failed", flush=True)
"""


@pytest.mark.parametrize(
    ("arguments", "variables", "files"),
    [
        (["runserver"], {}, 1),
        (["runserver", "--noreload"], {}, 0),
        (["migrate"], {}, 0),
        (["devserver"], {"RUN_MAIN": "true"}, 1),
    ],
)
def test_broken_models(
    folder: Path, arguments: list[str], variables: dict[str, str], files: int
) -> None:
    """A process of a reloader records itself before the models are loaded; no other does."""
    command = [sys.executable, "-c", BROKEN, "manage.py", *arguments]
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, check=True
    )
    assert done.stdout == b"failed\n"
    assert len(list(folder.iterdir())) == files


def test_watchfiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command `watchfiles` tells a process which files have changed."""
    detector = ReloadDetector()
    monkeypatch.setenv("WATCHFILES_CHANGES", "[]")
    assert not detector.is_reload
    monkeypatch.setenv("WATCHFILES_CHANGES", '[["modified", "models.py"]]')
    assert detector.is_reload


def is_replacement() -> bool:
    detector = ReloadDetector()
    detector.register()
    return detector.is_reload


def test_no_reloader() -> None:
    """A process without a server's signs has no server, and replaces none."""
    assert reloading_server() is None
    assert not is_replacement()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Let `multiprocessing` report that a server has started this process as its third."""
    current = SimpleNamespace(_kwargs={}, _args=(), _identity=(3,))
    monkeypatch.setattr(
        multiprocessing, "parent_process", lambda: SimpleNamespace(pid=4711)
    )
    monkeypatch.setattr(multiprocessing, "current_process", lambda: current)
    return current


@pytest.mark.parametrize("by", ["option", "variable"])
def test_the_third_process_of_granian(
    worker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The third process is a reload if it takes the place of an earlier one."""
    assert reloading_server() == 4711
    worker._args = (2, "loader")
    assert not is_replacement()
    if by == "option":
        monkeypatch.setattr(sys, "argv", ["granian", "--reload"])
    else:
        monkeypatch.setenv("GRANIAN_RELOAD", "true")
    assert is_replacement()
    worker._args = (3, "loader")
    assert not is_replacement()


def test_the_processes_of_another_server(
    worker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is not known starts one process first."""
    monkeypatch.setattr(sys, "argv", ["server", "--reload"])
    for worker._args in ((), ("loader",)):
        assert is_replacement()
    worker._identity = (1,)
    assert not is_replacement()


def test_the_third_process_of_uvicorn(worker: SimpleNamespace) -> None:
    """uvicorn starts one process with its reloader, whatever the number of workers is."""
    worker._kwargs["config"] = SimpleNamespace(should_reload=False, workers=4)
    assert not is_replacement()
    worker._kwargs["config"].should_reload = True
    assert is_replacement()
    worker._identity = (1,)
    assert not is_replacement()


@pytest.mark.parametrize(("workers", "reload"), [(2, True), (3, False)])
def test_the_third_process_of_hypercorn(
    worker: SimpleNamespace, workers: int, reload: bool
) -> None:
    """hypercorn starts all workers first, also with its reloader."""
    worker._kwargs["config"] = SimpleNamespace(use_reloader=True, workers=workers)
    assert is_replacement() == reload
    worker._kwargs["config"].use_reloader = False
    assert not is_replacement()


def test_a_worker_of_gunicorn() -> None:
    """gunicorn numbers its workers, and each knows the configuration, before it has booted."""
    from gunicorn.workers.base import Worker

    assert not is_replacement()

    def worker(age: int) -> Any:
        cfg = SimpleNamespace(
            reload=True, workers=2, max_requests=0, worker_tmp_dir=None, umask=0
        )
        cfg.uid, cfg.gid = os.geteuid(), os.getegid()
        return Worker(age, 1, [], None, 30, cfg, None)

    sibling, own = worker(1), worker(2)
    assert not is_replacement()
    own.age = 3
    assert is_replacement()
    own.cfg.reload = False
    assert not is_replacement()
    for each in (sibling, own):
        each.tmp.close()


def test_the_start_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has exited has no start, also before its parent has reaped it."""
    assert (started_at(os.getpid()) or "").isdecimal()
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert started_at(child) is None
    os.waitpid(child, 0)
    assert started_at(child) is None


def test_the_age_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is older than this process, as far as the system tells."""
    own = server_seconds()
    monkeypatch.setenv("RUN_MAIN", "true")
    assert server_seconds() >= own > 0
    monkeypatch.setattr(reloads, "started_at", lambda pid: None)
    assert 0 < server_seconds() <= own + PATIENCE


def test_a_system_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `/proc` a process that runs, also another user's, has the start "0"."""

    def missing(*arguments: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    assert started_at(os.getpid()) == "0"
    for error, start in ((PermissionError, "0"), (ProcessLookupError, None)):

        def kill(pid: int, number: int, error: type[OSError] = error) -> None:
            raise error

        monkeypatch.setattr(os, "kill", kill)
        assert started_at(1) == start


def test_a_reload_starts_no_supervisor(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reloaded process polls, and has nothing initialized."""
    settings.SAFE_INIT = {"SERVE": "initialize", "IN_TESTS": True}
    monkeypatch.setattr(readiness_module, "StatusPoller", SilentPoller)
    monkeypatch.setattr(
        reloads, "detector", SimpleNamespace(is_reload=True, register=lambda: None)
    )
    readiness.start()
    try:
        assert readiness._supervisor is None
        assert readiness._pollers
    finally:
        readiness.reset()
