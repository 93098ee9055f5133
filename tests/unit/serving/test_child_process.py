"""The child process that initializes: its start, its result and its end."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.spawn import get_executable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from django_safe_init.exceptions import ConfigurationError
from django_safe_init.serving.background import child_process
from django_safe_init.serving.background.child_process import (
    ChildResult,
    InitializationProcess,
)
from django_safe_init.serving.background.host_lock import HostLock
from tests.support import wait_until

#: Ignores SIGTERM, like a migration that catches every exception: only SIGKILL ends it.
DEAF = """
    import pathlib, signal, sys, time
    sys.modules["django_safe_init.serving.background.child_process"].SECONDS_TO_CLEAN_UP = 0.1
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pathlib.Path(__file__).with_name("loaded").touch()
    time.sleep(60)
"""
LISTENING = DEAF.replace("SIG_IGN", "SIG_DFL")


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], InitializationProcess]]:
    """Start a child whose settings module, the first code of its project, is the given code."""
    started: list[InitializationProcess] = []
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "childs_settings")
    monkeypatch.syspath_prepend(str(tmp_path))

    def start_with(code: str) -> InitializationProcess:
        (tmp_path / "childs_settings.py").write_text(dedent(code))
        started.append(InitializationProcess())
        return started[-1]

    yield start_with
    for each in started:
        each.end()
        each._stdout.close()


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[[], bool]:
    """Return True once the child has reached its settings."""
    return (tmp_path / "loaded").exists


def exit_code(code: int) -> ChildResult:
    """Return the result of a child that ended with this code and reported nothing."""
    return ChildResult(
        "failed", f"the process ended without a result, with exit code {code}"
    )


def test_it_needs_the_name_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent without DJANGO_SETTINGS_MODULE cannot start a child."""
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
    with pytest.raises(ConfigurationError, match=r"^Set DJANGO_SETTINGS_MODULE in the"):
        InitializationProcess()


def test_the_module_path_of_the_parent(start: Any, monkeypatch: Any) -> None:
    """The child has its parent's module path; "" becomes the parent's working folder."""
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    code = f"import sys; sys.exit(17 if {os.getcwd()!r} in sys.path else 18)"
    assert start(code).result() == exit_code(17)


def test_a_folder_with_a_colon(tmp_path: Path, monkeypatch: Any) -> None:
    """A folder with a colon on the path hides no module, and neither does the working folder."""
    folder = tmp_path / "a:b -- c"
    folder.mkdir()
    (folder / "colon_settings.py").write_text("import sys; sys.exit(17)")
    (tmp_path / "django.py").write_text("import sys; sys.exit(18)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*filter(None, sys.path), str(folder), "--"])
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "colon_settings")
    with InitializationProcess() as running:
        assert running.result() == exit_code(17)


def test_another_python(start: Any, tmp_path: Path) -> None:
    """The child runs the Python that `multiprocessing.set_executable` names."""
    before = get_executable()
    program = tmp_path / "python"
    printed = json.dumps({"result": "usage", "error": "$1"}).replace('"', '\\"')
    program.write_text(f'#!/bin/sh\necho "{printed}"; exit 2\n')
    program.chmod(0o755)
    multiprocessing.set_executable(str(program))
    try:
        assert start("").result() == ("usage", "-c")
    finally:
        multiprocessing.set_executable(before)


def test_its_standard_input_is_empty(start: Any) -> None:
    """Code that reads standard input meets its end at once."""
    code = "import sys; sys.exit(17 if sys.stdin.read() == '' else 18)"
    assert start(code).result() == exit_code(17)


def test_a_child_that_is_killed(start: Any, loaded: Any) -> None:
    """The parent notices the end of a killed child."""
    running = start(DEAF)
    wait_until(loaded)
    os.kill(running.pid, signal.SIGKILL)
    assert running.result() == exit_code(-signal.SIGKILL)


def test_it_is_told_to_end(start: Any, loaded: Any) -> None:
    """`end` ends the child by SIGTERM, and may be called again."""
    with start(LISTENING) as running:
        wait_until(loaded)
        running.end()
        assert running.result() == exit_code(-signal.SIGTERM)


def test_a_child_that_ignores_sigterm(start: Any, loaded: Any) -> None:
    """A child that ignores SIGTERM kills itself: its parent may be dead."""
    running = start(DEAF)
    wait_until(loaded)
    running.end()
    assert running.result() == exit_code(-signal.SIGKILL)


def test_a_stopped_child(start: Any, loaded: Any, monkeypatch: Any) -> None:
    """The parent kills a child that is stopped."""
    monkeypatch.setattr(child_process, "SECONDS_TO_CLEAN_UP", -0.9)
    running = start(LISTENING)
    wait_until(loaded)
    os.kill(running.pid, signal.SIGSTOP)
    stat = Path(f"/proc/{running.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(") ")[2].startswith("T"))
    running.end()
    assert running.result() == exit_code(-signal.SIGKILL)


def test_the_end_of_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child sends itself SIGTERM, then SIGKILL when the time to clean up is over."""
    reading, writing = os.pipe()
    done: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: done.append(number))
    monkeypatch.setattr(time, "sleep", done.append)
    os.close(writing)
    child_process._end_with_parent(reading)
    assert done == [signal.SIGTERM, child_process.SECONDS_TO_CLEAN_UP, signal.SIGKILL]


def test_it_is_detached(start: Any, loaded: Any) -> None:
    """A detached child outlives its parent and ends with the other process."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    ) as server:
        running = start(LISTENING)
        wait_until(loaded)
        running.detach_to(server.pid)
        with pytest.raises(subprocess.TimeoutExpired):
            running._process.wait(3 * child_process._POLL_SECONDS)
        server.kill()
        # The process is still unreaped.
        assert running.result() == exit_code(-signal.SIGTERM)


@pytest.mark.parametrize("refuse", [AttributeError, OSError])
def test_without_pidfd(monkeypatch: Any, refuse: Any) -> None:
    """On a system without `pidfd_open`, the child polls until the process has exited."""
    signs, pauses = [True, True, False], []

    def pidfd_open(pid: int) -> int:
        raise refuse

    monkeypatch.setattr(os, "pidfd_open", pidfd_open, raising=False)
    monkeypatch.setattr(child_process, "_is_alive", lambda pid: signs.pop(0))
    monkeypatch.setattr(time, "sleep", pauses.append)
    child_process._wait_for_exit(17)
    assert (signs, pauses) == ([], [child_process._POLL_SECONDS] * 2)


def test_a_process_is_alive() -> None:
    """A process is alive until it has exited and was reaped."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert child_process._is_alive(os.getpid())
    assert not child_process._is_alive(ended.pid)


def test_a_process_of_another_user_is_alive(monkeypatch: Any) -> None:
    """A process that must not be signaled is alive."""

    def kill(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert child_process._is_alive(1)


def test_an_inherited_lock(start: Any, tmp_path: Path) -> None:
    """The child keeps an inherited lock, does not pass it on, and deletes its file."""
    start("")
    lock = HostLock(str(tmp_path / "a:lock"))
    assert lock.acquire()
    code = f"import os, sys; sys.exit(17 + os.get_inheritable({lock.file}))"
    (tmp_path / "childs_settings.py").write_text(code)
    with InitializationProcess(holding=lock) as running:
        assert running.result() == exit_code(17)
    assert not os.path.exists(lock.path)
    lock.release()


def test_a_lock_without_a_file(start: Any, tmp_path: Path) -> None:
    """A lock without a file needs no cleanup."""
    start("")
    (tmp_path / "childs_settings.py").write_text("import sys; sys.exit(17)")
    with InitializationProcess(
        holding=HostLock(str(tmp_path / "nowhere/lock"))
    ) as running:
        assert running.result() == exit_code(17)


@pytest.mark.parametrize(
    ("printed", "reported"),
    [
        ({"result": "ready", "error": None}, ("ready", "")),
        ({"result": "failed", "error": "It broke."}, ("failed", "It broke.")),
        (
            {
                "result": "failed",
                "databases": [{"error": "One."}, {"error": None}, {"error": "Two."}],
            },
            ("failed", "One. Two."),
        ),
        (None, None),
    ],
)
@pytest.mark.parametrize(
    "others", ["", "Loading settings.\n", "3\n", '{"result": "ready"}\n', "[]\n"]
)
def test_its_result(printed: Any, reported: Any, others: str) -> None:
    """The error names all databases, whatever the project prints around the JSON object."""
    text = "" if printed is None else json.dumps(printed) + "\n"
    assert child_process._reported(f"{others}{text}{others}".encode()) == reported


@pytest.fixture(params=["ignored", "reaped by the server"])
def lost_exit_codes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Make Python report the exit code 0 for all children of this process."""

    def reap(number: int, frame: Any) -> None:
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    ignored = request.param == "ignored"
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN if ignored else reap)
    yield
    signal.signal(signal.SIGCHLD, before)


def test_lost_exit_codes(start: Any, lost_exit_codes: None) -> None:
    """A child without a result has failed, also if its exit code is lost."""
    result, error = start("import sys; sys.exit(17)").result()
    assert result == "failed"
    assert error.startswith("the process ended without a result")


def test_what_it_inherits(start: Any) -> None:
    """A child of a thread that blocks signals receives them, and learns exit codes."""
    code = """
        import signal, subprocess, sys
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        ignored = signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        sys.exit(bool(blocked or ignored) or subprocess.call(["sh", "-c", "exit 17"]))
    """
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    terminated = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
    try:
        running = start(code)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGTERM, terminated)
        signal.signal(signal.SIGCHLD, before)
    assert running.result() == exit_code(17)


def test_a_helper_of_the_settings(start: Any, tmp_path: Path) -> None:
    """A helper process that the settings start does not delay the result."""
    code = """
        import pathlib, subprocess, sys
        helper = subprocess.Popen(["sleep", "1000"])
        pathlib.Path(__file__).with_name("helper").write_text(str(helper.pid))
        print("loading", flush=True)
        INSTALLED_APPS = ["django_safe_init"]
        SAFE_INIT = {"MODE": "nonsense"}
    """
    try:
        assert start(code).result().result == "usage"
    finally:
        os.kill(int((tmp_path / "helper").read_text()), signal.SIGKILL)


def test_it_ends_although_its_parent_has_forked(
    start: Callable[[str], InitializationProcess], tmp_path: Path
) -> None:
    """The child ends with its parent, although a helper of the parent inherited the pipe."""
    begun = start(LISTENING)
    wait_until(lambda: (tmp_path / "loaded").exists())
    wait, release = os.pipe()
    helper = os.fork()
    if not helper:
        begun.close_in_fork()
        os.close(release)
        os.read(wait, 1)
        os._exit(0)
    begun.end()
    assert begun.result() == exit_code(-signal.SIGTERM)
    os.close(release)
    os.waitpid(helper, 0)
    os.close(wait)
