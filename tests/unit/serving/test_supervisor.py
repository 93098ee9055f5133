"""The supervisor: when it starts a child, how it handles failures, and how it ends."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from django_safe_init.core.build import Build
from django_safe_init.core.states import State
from django_safe_init.serving.background import backoff, supervisor
from django_safe_init.serving.background.child_process import NOTHING_TO_DO, ChildResult
from django_safe_init.serving.background.host_lock import HostLock, OrphanedChild
from django_safe_init.serving.background.supervisor import (
    ExitHook,
    InitializationSupervisor,
    server_process,
)
from django_safe_init.serving.background.termination_signals import termination
from django_safe_init.status import Status
from tests.support import PATIENCE, wait_until
from tests.unit.conftest import BEHIND, READY, status_of
from tests.unit.serving.conftest import failed
from tests.unit.snapshots import OWN, ended_run, run_row, snapshot

BUILD = Build(frozenset(), OWN)
DUE = status_of(BEHIND)
FAILED = status_of(snapshot(ended_run(1, "failed"), missing=("shop.0002_secret",)))
LED = status_of(snapshot(run_row(1), leader_pid=99, missing=("shop.0002_secret",)))


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostLock:
    """The lock of a host with only this test, as another process sees it."""
    path = str(tmp_path / "host.lock")
    monkeypatch.setattr(supervisor, "host_lock", lambda build: HostLock(path))
    return HostLock(path)


# Starting a child


End = Callable[[], ChildResult]


def ended(result: str, error: str = "") -> End:
    """Return the end of a child that changes nothing in the database."""
    return lambda: ChildResult(result, error)


class FakeChild:
    """A child that ends as the test says."""

    pid = 4711
    left_to: int | None = None

    def __init__(self, made: list[FakeChild], ends: list[End]) -> None:
        made.append(self)
        self.ended = threading.Event()
        self._end = ends.pop(0) if ends else None

    def result(self) -> ChildResult:
        if self._end is not None:
            return self._end()
        assert self.ended.wait(PATIENCE)
        return ChildResult("interrupted", "ended by SIGTERM")

    def detach_to(self, server: int) -> None:
        self.left_to = server

    def end(self) -> None:
        self.ended.set()


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[FakeChild]:
    """The children that were started; each ends as `use` says, or when `end` is called."""
    made: list[FakeChild] = []
    monkeypatch.setattr(supervisor, "_CHECK_SECONDS", (0, 0.001))
    use(monkeypatch, made)
    return made


#: The argument `if_due` of each child.
made_if_due: list[bool] = []


def use(monkeypatch: Any, made: list[FakeChild], *ends: End) -> None:
    left = list(ends)
    made_if_due.clear()

    def start(*, if_due: bool, holding: HostLock) -> FakeChild:
        made_if_due.append(if_due)
        assert holding.file is not None
        return FakeChild(made, left)

    monkeypatch.setattr(supervisor, "InitializationProcess", start)


@pytest.fixture
def begin() -> Iterator[Callable[..., InitializationSupervisor]]:
    """Start a supervisor that knows these statuses by alias; a test may change them."""
    started: list[InitializationSupervisor] = []

    def begin_with(known: dict[str, Status | None]) -> InitializationSupervisor:
        started.append(InitializationSupervisor(known, BUILD, known.get))
        started[-1].start()
        return started[-1]

    yield begin_with
    for each in started:
        each.stop()


def assert_ends(thread: InitializationSupervisor) -> None:
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.parametrize("status", [None, LED, Status.unreachable("default")])
def test_it_waits(
    children: Any, begin: Any, set_database: Any, status: Status | None
) -> None:
    """While the status is unknown, led or unreachable, the supervisor reads no database."""
    databases_read = set_database(DUE)
    counted = Counted(default=status)
    thread = begin(counted)
    wait_until(lambda: counted.reads > 20)
    assert (children, databases_read) == ([], [])
    counted["default"] = READY
    assert_ends(thread)


class Counted(dict[str, Any]):
    """A dict that counts how often it is read."""

    reads = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.reads += 1
        return super().get(key, default)


def test_it_initializes(
    children: Any, begin: Any, set_database: Any, monkeypatch: Any, caplog: Any
) -> None:
    """The supervisor starts a child, and ends when all databases are ready."""
    caplog.set_level(logging.INFO)
    set_database(DUE)

    def succeed() -> ChildResult:
        set_database(READY)
        return ChildResult("ready")

    use(monkeypatch, children, succeed)
    known = {"default": DUE}
    thread = begin(known)
    wait_until(lambda: "has ended: ready" in caplog.text)
    known["default"] = READY
    assert_ends(thread)
    assert "Initializing in the background, in process 4711." in caplog.messages


def test_a_release_on_a_ready_database(
    children: Any, begin: Any, monkeypatch: Any, settings: Any, caplog: Any
) -> None:
    """A child runs the receivers of a new release, and is tried again after a failure."""
    caplog.set_level(logging.INFO)
    settings.SAFE_INIT = {"RELEASE": "v2"}
    monkeypatch.setattr(supervisor, "receivers_are_due", lambda *arguments: True)
    monkeypatch.setattr(backoff, "MIN_PAUSE", 0.001)
    ends = (ended("failed", "no view"), ended("ready"))
    use(monkeypatch, children, *ends)
    assert_ends(begin({"default": READY}))
    assert made_if_due == [False, False]
    assert "no view" in caplog.text
    assert "has ended: ready" in caplog.text


def test_a_release_that_another_process_has_run(
    children: Any, begin: Any, monkeypatch: Any, settings: Any
) -> None:
    """The supervisor ends without a child if the newest run carries the release."""
    settings.SAFE_INIT = {"RELEASE": "v2"}
    monkeypatch.setattr(supervisor, "receivers_are_due", lambda *arguments: False)
    assert_ends(begin({"default": READY}))
    assert children == []


def test_it_ends_while_the_receivers_run(
    children: Any, begin: Any, monkeypatch: Any, settings: Any
) -> None:
    """A process that ends while the receivers run ends the child, and reports no failure."""
    settings.SAFE_INIT = {"RELEASE": "v2"}
    monkeypatch.setattr(supervisor, "receivers_are_due", lambda *arguments: True)
    thread = begin({"default": READY})
    wait_until(lambda: children)
    thread.stop()
    assert children[0].ended.is_set()
    assert thread._failures == 0


def test_several_databases(children: Any, begin: Any, set_database: Any) -> None:
    """The supervisor reads only the idle databases; the child initializes all."""
    databases_read = set_database(DUE)
    led = Status("second", LED.state, 0, "", led=True)
    due = Status("third", DUE.state, 0, "")
    begin({"default": READY, "second": led, "third": due})
    wait_until(lambda: children)
    assert set(databases_read) == {"third"}


def test_it_is_not_time_yet(
    children: Any, begin: Any, set_database: Any, monkeypatch: Any
) -> None:
    """The supervisor reads the runs again before they are due: another process may have died."""
    monkeypatch.setattr(supervisor, "_MAX_POSTPONE_SECONDS", 0.01)
    databases_read = set_database(FAILED, failed(1, 1))
    begin({"default": FAILED})
    wait_until(lambda: len(databases_read) > 2)
    assert children == []
    set_database(FAILED, failed(1, 6))
    wait_until(lambda: children)


def test_one_child_a_host(
    children: Any, begin: Any, set_database: Any, host: HostLock
) -> None:
    """While another process of the host has a child, the supervisor reads no database."""
    databases_read = set_database(DUE)
    assert host.acquire()
    counted = Counted(default=DUE)
    begin(counted)
    wait_until(lambda: counted.reads > 20)
    assert (children, databases_read) == ([], [])
    host.close()
    wait_until(lambda: children)
    assert not host.acquire()


def test_a_failure(
    children: Any, begin: Any, set_database: Any, monkeypatch: Any, caplog: Any
) -> None:
    """A failure is logged with its reason, and the pause before the next try grows."""
    caplog.set_level(logging.INFO)
    set_database(DUE)
    monkeypatch.setattr(backoff, "MIN_PAUSE", 0.01)
    monkeypatch.setattr(supervisor, "_MAX_POSTPONE_SECONDS", 0.01)

    def succeed() -> ChildResult:
        set_database(LED)
        return ChildResult("ready")

    broken, again, late = (
        ended("failed", text) for text in ("It broke.", "Again.", "Late.")
    )
    use(monkeypatch, children, broken, again, succeed, late)
    thread = begin({"default": DUE})
    wait_until(lambda: "has ended: ready" in caplog.text)
    set_database(DUE)
    wait_until(lambda: "Late." in caplog.text)
    thread.stop()
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert [each.args[1] for each in warnings] == ["It broke.", "Again.", "Late."]
    first, second, late = (each.args[0] for each in warnings)
    assert 0.01 <= first < 0.0126
    assert 0.02 <= second < 0.0251
    assert late < second  # a success resets the pause


def test_the_error_of_a_child(set_database: Any, monkeypatch: Any) -> None:
    """The error of a child is shown; the second in a row, or the end of a run, is the state."""
    set_database(LED)
    thread = InitializationSupervisor(["default"], BUILD, {"default": DUE}.get)
    assert thread.with_error(DUE) is DUE
    thread._conclude(ChildResult("unsafe", "No GRANT."), ["default"], BUILD)
    shown = thread.with_error(DUE)
    assert (shown.state, shown.error) == (DUE.state, "No GRANT.")
    assert shown.message == f"{DUE.message}; a child process failed: No GRANT."
    thread._conclude(ChildResult("unsafe", "No GRANT."), ["default"], BUILD)
    shown = thread.with_error(DUE)
    assert (shown.state, shown.error) == (State.ERROR, "No GRANT.")
    for status in (READY, LED, FAILED):
        known = status if isinstance(status, Status) else status_of(status)
        assert thread.with_error(known) is known
    thread._conclude(ChildResult("ready"), ["default"], BUILD)
    assert thread.with_error(DUE) is DUE


def test_another_process_was_faster(
    children: Any, begin: Any, set_database: Any, monkeypatch: Any, caplog: Any
) -> None:
    """A child with nothing to do is no failure."""
    caplog.set_level(logging.INFO)
    set_database(DUE)

    def too_late() -> ChildResult:
        set_database(LED)
        return ChildResult(NOTHING_TO_DO)

    use(monkeypatch, children, too_late)
    begin({"default": DUE})
    wait_until(lambda: "Another process was faster: the child" in caplog.text)
    assert not [each for each in caplog.records if each.levelno > logging.INFO]


@pytest.mark.parametrize("result", ["ready", NOTHING_TO_DO])
def test_a_result_that_the_database_contradicts(
    children: Any,
    begin: Any,
    set_database: Any,
    monkeypatch: Any,
    caplog: Any,
    result: str,
) -> None:
    """While the database is not ready, the pause grows whatever a child reports."""
    caplog.set_level(logging.INFO)
    set_database(DUE)
    monkeypatch.setattr(backoff, "MIN_PAUSE", 0.01)
    use(monkeypatch, children, *[ended(result)] * 3)
    begin({"default": DUE})
    wait_until(lambda: len(children) == 4)
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    first, second, third = (each.args[0] for each in warnings)
    assert 0.01 <= first < 0.0126
    assert 0.02 <= second < 0.0251
    assert 0.04 <= third < 0.0501
    assert f"reported {result!r}, but the database is not initialized" in caplog.text
    assert "has ended: ready" not in caplog.text
    assert "was faster" not in caplog.text


def test_a_child_that_cannot_be_started(
    children: Any, begin: Any, set_database: Any, monkeypatch: Any, caplog: Any
) -> None:
    """A child that cannot be started is a failure; the supervisor continues."""

    def start(**arguments: Any) -> Any:
        raise OSError(11, "Resource temporarily unavailable")

    set_database(DUE)
    monkeypatch.setattr(backoff, "MIN_PAUSE", 0.01)
    monkeypatch.setattr(supervisor, "InitializationProcess", start)
    begin({"default": DUE})
    wait_until(lambda: "Resource temporarily unavailable" in caplog.text)
    use(monkeypatch, children)
    wait_until(lambda: children)


def test_an_unexpected_error(
    children: Any, begin: Any, set_database: Any, monkeypatch: Any, caplog: Any
) -> None:
    """An unexpected error is logged, and the supervisor tries again."""
    monkeypatch.setattr(backoff, "MIN_PAUSE", 0.01)
    set_database(RuntimeError("not\nforeseen"))
    begin({"default": DUE})
    wait_until(lambda: "RuntimeError: not foreseen" in caplog.text)
    set_database(DUE)
    wait_until(lambda: children)


def test_without_a_build(set_database: Any, monkeypatch: Any) -> None:
    """The supervisor computes the build when it needs it."""
    set_database(READY)
    monkeypatch.setattr(supervisor, "current_build", lambda: BUILD)
    thread = InitializationSupervisor(["default"], None, {"default": DUE}.get)
    thread._try_initialize(["default"])
    assert thread._build is BUILD


# The end of the process


def test_stopped_while_a_child_runs(
    children: Any, begin: Any, set_database: Any, caplog: Any
) -> None:
    """Stopping ends the child and the thread, without a failure."""
    set_database(DUE)
    thread = begin({"default": DUE})
    wait_until(lambda: children)
    thread.stop()
    assert not thread.is_alive()
    assert children[0].ended.is_set()
    assert caplog.text == ""


def test_stopped_before_the_child_is_started(children: Any, host: HostLock) -> None:
    """After it was stopped, the supervisor starts no child."""
    thread = InitializationSupervisor(["default"], BUILD, {"default": DUE}.get)
    thread._end_child()
    thread._initialize(host)
    assert children == []


def test_the_end_of_the_process(
    children: Any, begin: Any, set_database: Any, monkeypatch: Any
) -> None:
    """A process that exits ends its child first; once ready, it does nothing at its exit."""
    at_exit: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    monkeypatch.setattr(atexit, "unregister", at_exit.remove)
    set_database(DUE)
    begin({"default": DUE})
    wait_until(lambda: children)
    [end] = at_exit
    end()
    assert children[0].ended.is_set()
    wait_until(lambda: at_exit == [])


def test_close_in_fork(host: HostLock) -> None:
    """A forked process gives up its parent's child, lock and exit function."""
    thread = InitializationSupervisor(["default"], BUILD, lambda alias: None)
    thread.close_in_fork()
    given_up: list[int] = []
    child: Any = SimpleNamespace(close_in_fork=lambda: given_up.append(1))
    thread._child = child
    thread._host = HostLock(host.path)
    assert thread._host.acquire()
    thread.close_in_fork()
    assert given_up == [1]
    assert host.acquire()
    host.close()


# A worker that its server replaces


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make this process a worker that received no signal; return its server's process ID."""
    monkeypatch.setattr(supervisor, "server_process", lambda: 99)
    monkeypatch.setattr(termination, "installed", True)
    return 99


def test_the_server_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of gunicorn and uvicorn have a server, because it signals their end."""
    monkeypatch.delenv("SERVER_SOFTWARE", raising=False)
    for name in ("uvicorn", "hypercorn"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert server_process() is None
    monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn/27")
    assert server_process() == os.getppid()
    parent = SimpleNamespace(pid=17)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    assert server_process() is None
    monkeypatch.setitem(sys.modules, "uvicorn", os)
    assert server_process() == 17
    monkeypatch.setitem(sys.modules, "hypercorn", os)
    assert server_process() is None


@pytest.mark.parametrize("parent", [None, SimpleNamespace(pid=17)])
def test_the_exit_hook(monkeypatch: Any, parent: Any) -> None:
    """A worker of `multiprocessing` has a finalizer, another process an `atexit` function."""
    at_exit: list[Callable[[], None]] = []
    called: list[int] = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    hook = ExitHook(lambda: called.append(1))
    hook.install()
    finalizers = [hook._finalizer] if hook._finalizer else []
    assert len(at_exit) + len(finalizers) == 1
    assert bool(finalizers) is bool(parent)
    for function in (*at_exit, *finalizers):
        function()
    assert called == [1]
    hook.remove()


def test_an_exit_hook_that_is_removed(monkeypatch: Any) -> None:
    """A removed finalizer is not called."""
    parent = SimpleNamespace(pid=17)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    called: list[int] = []
    hook = ExitHook(lambda: called.append(1))
    hook.install()
    assert hook._finalizer is not None
    hook.remove()
    hook._finalizer()
    assert called == []


def test_the_child_continues(
    children: Any, begin: Any, set_database: Any, host: HostLock, replaced: int
) -> None:
    """A worker that is replaced detaches its child to the server, and records it."""
    set_database(DUE)
    thread = begin({"default": DUE})
    wait_until(lambda: children)
    thread._at_exit()
    assert children[0].left_to == replaced
    assert host.orphan() == OrphanedChild(4711, replaced)
    assert not children[0].ended.is_set()


@pytest.mark.parametrize("why", ["told", "no handlers", "no server", "no file"])
def test_the_child_ends(
    children: Any,
    begin: Any,
    set_database: Any,
    replaced: int,
    monkeypatch: Any,
    why: str,
) -> None:
    """The child ends if its worker got a signal or would miss it, or has no server or lock file."""
    if why == "no file":
        monkeypatch.setattr(HostLock, "acquire", lambda self: True)
        monkeypatch.setattr(
            supervisor, "InitializationProcess", lambda **_: FakeChild(children, [])
        )
    set_database(DUE)
    thread = begin({"default": DUE})
    wait_until(lambda: children)
    monkeypatch.setattr(termination, "received", why == "told")
    monkeypatch.setattr(termination, "installed", why != "no handlers")
    if why == "no server":
        thread._server = None
    thread._at_exit()
    assert children[0].ended.is_set()


def test_ended_before_it_has_begun(children: Any) -> None:
    """A supervisor without a build has no child to end."""
    thread = InitializationSupervisor(["default"], None, lambda alias: None)
    thread._end_child()
    assert thread._stopped.is_set()


def test_replaced_without_a_child(replaced: int) -> None:
    """A worker without a child detaches none."""
    thread = InitializationSupervisor(["default"], BUILD, {"default": LED}.get)
    thread._at_exit()
    assert thread._stopped.is_set()


@pytest.fixture
def orphan(host: HostLock) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the host's lock, as a detached child does."""
    assert host.acquire()
    assert host.file is not None
    wait = [sys.executable, "-c", "input()"]
    with subprocess.Popen(wait, stdin=subprocess.PIPE, pass_fds=[host.file]) as process:
        host.set_orphan(OrphanedChild(process.pid, 99))
        host.close()
        yield process
        process.kill()


def test_the_end_of_an_orphan(orphan: Any, replaced: int) -> None:
    """A worker that is told to end ends the child that an earlier worker detached."""
    InitializationSupervisor(["default"], BUILD, lambda alias: None)._end_child()
    assert orphan.wait(0) == -signal.SIGTERM


def test_an_orphan_that_has_exited(
    host: HostLock, orphan: Any, replaced: int, monkeypatch: Any
) -> None:
    """An orphan that has exited needs no signal."""
    monkeypatch.setattr(supervisor, "SECONDS_TO_CLEAN_UP", 0.05)
    before = host.orphan()
    assert before is not None
    ended = subprocess.Popen(["true"])
    ended.wait()
    monkeypatch.setattr(HostLock, "orphan", lambda self: before._replace(pid=ended.pid))
    InitializationSupervisor(["default"], BUILD, lambda alias: None)._end_child()
    assert orphan.poll() is None


def test_the_orphan_of_another_server(orphan: Any, monkeypatch: Any) -> None:
    """A worker does not end the orphan of another server."""
    monkeypatch.setattr(supervisor, "server_process", lambda: 98)
    InitializationSupervisor(["default"], BUILD, lambda alias: None)._end_child()
    assert orphan.poll() is None
