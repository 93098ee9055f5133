"""What a process knows: unknown is not ready, ready is for good, and a child starts anew."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

from django_safe_init.core.states import State
from django_safe_init.serving.background import readiness as module
from django_safe_init.serving.background import supervisor
from django_safe_init.serving.background.readiness import Readiness, readiness
from django_safe_init.status import Status
from tests.unit.conftest import BEHIND, READY, Deaf, hear, status_of

NOT_READY = status_of(BEHIND)
OTHER = Status("other", State.READY, 100, "")


def in_child(function: Callable[[], bool]) -> bool:
    """What the function says in a forked child."""
    pid = os.fork()
    if not pid:
        code = 2
        try:
            code = 0 if function() else 1
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 1)
    return code == 0


def test_unknown_is_not_ready() -> None:
    """Of a process that has just started nothing is known, and nothing is ready."""
    fresh = Readiness()
    assert fresh.status("default") is None
    assert not fresh.ready()
    assert not fresh.ready("default")
    assert not fresh.complete


def test_all_of_them(tell) -> None:
    """A process is ready when all its databases are."""
    tell(NOT_READY, OTHER)
    assert readiness.ready("other")
    assert not readiness.ready("default")
    assert not readiness.ready()
    assert readiness.status("default") is NOT_READY
    hear(READY)
    assert readiness.ready()
    assert readiness.complete


def test_ready_is_for_good(tell) -> None:
    """What comes after "ready" does not take it back."""
    tell(READY)
    hear(NOT_READY)
    assert readiness.ready()
    assert readiness.ready("default")


def test_nothing_to_watch(tell, monkeypatch) -> None:
    """A process that is ready looks no more, and never initializes."""
    looks: list[None] = []
    tell(READY)
    monkeypatch.setattr(readiness, "start_polling", lambda: looks.append(None))
    readiness.start()
    assert looks == []


def test_watching_begins_once(tell, monkeypatch) -> None:
    """Each database gets one lookout, however often and from wherever it is asked for."""
    made = []

    class Counted(Deaf):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(module, "StatusPoller", Counted)
    callers = [threading.Thread(target=readiness.start) for _ in range(20)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    readiness.start()
    assert [each.alias for each in made] == ["default"]


def test_who_serves_initializes(tell, settings, monkeypatch) -> None:
    """One thread sees to it, for who serves and not for who only looks; and it is told first."""
    made = []

    class Silent:
        def __init__(self, *arguments: object) -> None:
            made.append(arguments)

        def start(self) -> None: ...
        def stop(self) -> None: ...

    heeded = []
    monkeypatch.setattr(supervisor, "InitializationSupervisor", Silent)
    monkeypatch.setattr(
        module.termination, "install_handlers", lambda: heeded.append(1)
    )
    settings.SAFE_INIT = {"IN_TESTS": True, "SERVE": "initialize"}
    readiness.start_polling()
    assert (made, heeded) == ([], [])
    callers = [threading.Thread(target=readiness.start) for _ in range(20)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    readiness._start_supervisor()  # as one does who comes too late
    assert len(made) == 1
    assert len(heeded) == 20


def test_a_server_that_initializes_heeds_signals(tell, settings, monkeypatch) -> None:
    """From the moment on when it loads the application, in its main thread; no other does."""
    heeded = []
    monkeypatch.setattr(
        module.termination, "install_handlers", lambda: heeded.append(1)
    )
    readiness.install()
    assert heeded == []
    settings.SAFE_INIT = {"IN_TESTS": True, "SERVE": "initialize"}
    readiness.install()
    assert heeded == [1]


def test_two_at_the_same_moment(tell, monkeypatch) -> None:
    """Who waits while another starts the lookouts starts none."""
    made = []
    monkeypatch.setattr(module, "StatusPoller", lambda *a: made.append(a) or Deaf(*a))
    with readiness._lock:
        caller = threading.Thread(target=readiness.start)
        caller.start()
        time.sleep(0)  # let it come as far as the lock, if it will
        readiness._polling = True
    caller.join()
    assert made == []


def test_never_in_a_projects_own_tests(settings, monkeypatch) -> None:
    """In Django's test environment nothing is watched, unless IN_TESTS says so."""
    monkeypatch.setattr(module, "StatusPoller", None)
    settings.SAFE_INIT = {}
    readiness.start()
    assert not readiness._polling


def test_waiting_for_the_first_news(tell, settings) -> None:
    """A wait is over with the first news of each database, whatever they are, or in time."""
    started = time.monotonic()
    readiness.start()
    readiness.wait(0.01)
    asyncio.run(readiness.wait_async(0.01))
    hear(NOT_READY)
    readiness.wait(30)
    asyncio.run(readiness.wait_async(30))
    assert time.monotonic() - started < 10


def test_a_child_knows_what_its_parent_knew(tell) -> None:
    """What was ready for the parent is ready in a forked child, which need not look again."""
    tell(READY)
    assert in_child(lambda: readiness.ready() and not readiness._polling)


def test_a_child_watches_by_itself(tell) -> None:
    """The parent's threads are not in the child: it starts its own, also during a lock."""
    tell(NOT_READY)

    def watches() -> bool:
        before = readiness._polling
        readiness.start()
        return not before and readiness._polling

    with readiness._lock:
        assert in_child(watches)
    assert readiness._polling


def test_a_worker_watches_from_its_start(tell) -> None:
    """After `prepare`, a forked child watches without having been asked; this process does not."""
    readiness.install()
    assert not readiness._polling
    assert in_child(lambda: readiness._polling and not readiness.ready())


def test_a_helper_of_a_server_does_not_watch(tell) -> None:
    """What a process that serves forks for itself neither watches nor initializes."""
    readiness.install()
    tell(NOT_READY)
    assert readiness._polling
    assert in_child(lambda: not readiness._polling)


def test_a_helper_gives_up_what_belongs_to_its_parent(tell, monkeypatch) -> None:
    """A forked process does not keep the child alive that its parent initializes with."""
    tell(NOT_READY)
    disowned = []
    supervisor = SimpleNamespace(
        close_in_fork=lambda: disowned.append(1), stop=lambda: None
    )
    monkeypatch.setattr(readiness, "_supervisor", supervisor)
    assert in_child(lambda: disowned == [1] and readiness._supervisor is None)


def test_a_wait_in_a_child(tell) -> None:
    """A child of a ready process waits for no news."""
    tell(READY)
    assert in_child(lambda: readiness._first_result.is_set())


def test_forget(tell) -> None:
    """Afterwards it is as in a new process."""
    tell(READY)
    readiness.reset()
    assert not readiness.ready()
    assert readiness.status("default") is None
