"""The child process that initializes: how it is started, what it tells, and how it ends."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.spawn import get_executable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from django_safe_init.exceptions import ConfigurationError
from django_safe_init.serving.background import child_process
from django_safe_init.serving.background.child_process import InitializationProcess
from django_safe_init.serving.background.host_lock import HostLock
from tests.support import wait_until

#: Like a migration that catches everything: nothing ends it but SIGKILL.
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
    """Starts a child whose settings, its first code of a project, are this code."""
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
    """Whether the child has come as far as its settings."""
    return (tmp_path / "loaded").exists


def test_it_needs_the_name_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that are not named in the environment are refused in one sentence."""
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
    with pytest.raises(ConfigurationError, match=r"^Set DJANGO_SETTINGS_MODULE in the"):
        InitializationProcess()


def test_it_finds_what_its_parent_finds(start: Any, monkeypatch: Any) -> None:
    """The child has the module path of its parent; "" in it is the folder of its parent."""
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    code = f"import sys; sys.exit(17 if {os.getcwd()!r} in sys.path else 18)"
    assert start(code).result()[0] == 17


def test_a_folder_with_a_colon(tmp_path: Path, monkeypatch: Any) -> None:
    """Its name hides nothing that the parent finds, nor does what is in the working folder."""
    folder = tmp_path / "a:b -- c"
    folder.mkdir()
    (folder / "colon_settings.py").write_text("import sys; sys.exit(17)")
    (tmp_path / "django.py").write_text("import sys; sys.exit(18)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*filter(None, sys.path), str(folder), "--"])
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "colon_settings")
    with InitializationProcess() as running:
        assert running.result()[0] == 17


def test_another_python(start: Any, tmp_path: Path) -> None:
    """Where `sys.executable` is not Python, `multiprocessing` is told what is."""
    before = get_executable()
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "{\\"error\\": \\"$1\\"}"; exit 3\n')
    program.chmod(0o755)
    multiprocessing.set_executable(str(program))
    try:
        assert start("").result() == (3, "-c")
    finally:
        multiprocessing.set_executable(before)


def test_its_standard_input_is_empty(start: Any) -> None:
    """Code that asks a question meets the end of the input, and does not wait for ever."""
    code = "import sys; sys.exit(17 if sys.stdin.read() == '' else 18)"
    assert start(code).result() == (17, "the process ended with exit code 17")


def test_a_child_that_is_killed(start: Any, loaded: Any) -> None:
    """Its end is noticed, whatever ended it."""
    running = start(DEAF)
    wait_until(loaded)
    os.kill(running.pid, signal.SIGKILL)
    assert running.result() == (-9, "the process ended with exit code -9")


def test_it_is_told_to_end(start: Any, loaded: Any) -> None:
    """`end` is a SIGTERM, and may be called again."""
    with start(LISTENING) as running:
        wait_until(loaded)
        running.end()
        assert running.result()[0] == -signal.SIGTERM


def test_one_that_ignores_it(start: Any, loaded: Any) -> None:
    """Who does not end by SIGTERM ends by SIGKILL, of its own hand: its parent may be dead."""
    running = start(DEAF)
    wait_until(loaded)
    running.end()
    assert running.result()[0] == -signal.SIGKILL


def test_one_that_is_stopped(start: Any, loaded: Any, monkeypatch: Any) -> None:
    """Who cannot do even that is killed by its parent."""
    monkeypatch.setattr(child_process, "SECONDS_TO_CLEAN_UP", -0.9)
    running = start(LISTENING)
    wait_until(loaded)
    os.kill(running.pid, signal.SIGSTOP)
    stat = Path(f"/proc/{running.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(") ")[2].startswith("T"))
    running.end()
    assert running.result()[0] == -signal.SIGKILL


def test_the_end_of_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """First SIGTERM, then, when the time to clean up is over, SIGKILL."""
    reading, writing = os.pipe()
    done: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: done.append(number))
    monkeypatch.setattr(time, "sleep", done.append)
    os.close(writing)
    child_process._end_with_parent(reading)
    assert done == [signal.SIGTERM, child_process.SECONDS_TO_CLEAN_UP, signal.SIGKILL]


def test_it_is_left_to_another_process(start: Any, loaded: Any) -> None:
    """It goes on when its parent gives it up, and ends with the process that it is left to."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    ) as server:
        running = start(LISTENING)
        wait_until(loaded)
        running.detach_to(server.pid)
        with pytest.raises(subprocess.TimeoutExpired):
            running._process.wait(3 * child_process._POLL_SECONDS)
        server.kill()
        assert running.result()[0] == -signal.SIGTERM  # it was not waited for yet


@pytest.mark.parametrize("refuse", [AttributeError, OSError])
def test_where_the_system_tells_nobody_of_an_end(monkeypatch: Any, refuse: Any) -> None:
    """Then it looks again and again whether the process is still there."""
    signs, pauses = [True, True, False], []

    def pidfd_open(pid: int) -> int:
        raise refuse

    monkeypatch.setattr(os, "pidfd_open", pidfd_open, raising=False)
    monkeypatch.setattr(child_process, "_is_alive", lambda pid: signs.pop(0))
    monkeypatch.setattr(time, "sleep", pauses.append)
    child_process._wait_for_exit(17)
    assert (signs, pauses) == ([], [child_process._POLL_SECONDS] * 2)


def test_a_sign_of_life() -> None:
    """A process is there until it has ended and was waited for."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert child_process._is_alive(os.getpid())
    assert not child_process._is_alive(ended.pid)


def test_a_process_of_somebody_else_is_alive(monkeypatch: Any) -> None:
    """Not to be allowed to send a signal is a sign of life, too."""

    def kill(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert child_process._is_alive(1)


def test_what_it_inherits(start: Any, tmp_path: Path) -> None:
    """It keeps a lock, which it does not pass on, and removes it at its end."""
    start("")
    lock = HostLock(str(tmp_path / "a:lock"))
    assert lock.acquire()
    code = f"import os, sys; sys.exit(17 + os.get_inheritable({lock.file}))"
    (tmp_path / "childs_settings.py").write_text(code)
    with InitializationProcess(holding=lock) as running:
        assert running.result()[0] == 17
    assert not os.path.exists(lock.path)
    lock.release()


def test_a_lock_that_is_none(start: Any, tmp_path: Path) -> None:
    """Where there can be no file, there is nothing to keep."""
    start("")
    (tmp_path / "childs_settings.py").write_text("import sys; sys.exit(17)")
    with InitializationProcess(
        holding=HostLock(str(tmp_path / "nowhere/lock"))
    ) as running:
        assert running.result()[0] == 17


@pytest.mark.parametrize(
    ("printed", "error"),
    [
        ({"error": None}, ""),
        ({"error": "It broke."}, "It broke."),
        ({"databases": [{"error": "One."}, {"error": None}, {"error": "Two."}]}, "One. Two."),
        (None, ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "others", ["", "Loading settings.\n", "3\n", '{"a": 1}\n', "[]\n"]
)
def test_the_error_it_tells(printed: Any, error: str, others: str) -> None:
    """The errors of all databases, if it comes that far, whatever the project has printed."""
    text = "" if printed is None else json.dumps(printed) + "\n"
    assert child_process._error(f"{others}{text}{others}".encode()) == error


def test_it_ends_although_its_parent_has_forked(
    start: Callable[[str], InitializationProcess], tmp_path: Path
) -> None:
    """A helper that the parent has forked does not keep it alive, once it has given it up."""
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
    assert begun.result()[0] == -signal.SIGTERM
    os.close(release)
    os.waitpid(helper, 0)
    os.close(wait)
