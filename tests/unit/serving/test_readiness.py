"""The readiness of a process, and of the processes that it forks."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

from django_safe_init.core.schemas import BlockedTenants
from django_safe_init.core.states import State
from django_safe_init.serving.background import readiness as module
from django_safe_init.serving.background import supervisor
from django_safe_init.serving.background.readiness import Readiness, readiness
from django_safe_init.status import Status
from tests.support import ENDLESS
from tests.unit.conftest import (
    BEHIND,
    BLOCKED,
    READY,
    SHARED_READY,
    SilentPoller,
    report,
    report_blocked,
    status_of,
)

NOT_READY = status_of(BEHIND)
OTHER = Status("other", State.READY, 100, "")


def in_child(function: Callable[[], bool]) -> bool:
    """Return the function's result in a forked child."""
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
    """A new process knows no status, and is not ready."""
    fresh = Readiness()
    assert fresh.status("default") is None
    assert not fresh.ready()
    assert not fresh.ready("default")
    assert not fresh.complete


def test_all_of_them(set_statuses) -> None:
    """A process is ready when all its databases are."""
    set_statuses(NOT_READY, OTHER)
    assert readiness.ready("other")
    assert not readiness.ready("default")
    assert not readiness.ready()
    assert readiness.status("default") is NOT_READY
    report(READY)
    assert readiness.ready()
    assert readiness.complete


def test_ready_is_for_good(set_statuses) -> None:
    """A later status does not revoke "ready"."""
    set_statuses(READY)
    report(NOT_READY)
    assert readiness.ready()
    assert readiness.ready("default")


def test_no_polling_when_ready(set_statuses, monkeypatch) -> None:
    """A ready process polls no more."""
    looks: list[None] = []
    set_statuses(READY)
    monkeypatch.setattr(readiness, "start_polling", lambda: looks.append(None))
    readiness.start()
    assert looks == []


def test_polling_starts_once(set_statuses, monkeypatch) -> None:
    """Each database gets one poller, however many threads start the polling."""
    made = []

    class Counted(SilentPoller):
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


def test_a_serving_process_initializes(set_statuses, settings, monkeypatch) -> None:
    """A process that serves starts one supervisor; a process that only polls starts none."""
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
    readiness._start_supervisor()  # as a thread does that comes too late
    assert len(made) == 1
    assert len(heeded) == 20


def test_install_handlers(set_statuses, settings, monkeypatch) -> None:
    """A server that initializes installs its signal handlers when it loads the application."""
    heeded = []
    monkeypatch.setattr(
        module.termination, "install_handlers", lambda: heeded.append(1)
    )
    readiness.install()
    assert heeded == []
    settings.SAFE_INIT = {"IN_TESTS": True, "SERVE": "initialize"}
    readiness.install()
    assert heeded == [1]


def test_two_at_the_same_moment(set_statuses, monkeypatch) -> None:
    """A thread that waits while another one starts the pollers starts none."""
    made = []
    monkeypatch.setattr(
        module, "StatusPoller", lambda *a: made.append(a) or SilentPoller(*a)
    )
    with readiness._lock:
        caller = threading.Thread(target=readiness.start)
        caller.start()
        time.sleep(0)  # let the thread reach the lock
        readiness._polling = True
    caller.join()
    assert made == []


def test_never_in_a_projects_own_tests(settings, monkeypatch) -> None:
    """In Django's test environment no poller starts, unless IN_TESTS says so."""
    monkeypatch.setattr(module, "StatusPoller", None)
    settings.SAFE_INIT = {}
    readiness.start()
    assert not readiness._polling


def test_waiting_for_the_first_result(set_statuses, settings) -> None:
    """A wait ends with the first result of each database, or with its timeout."""
    readiness.start()
    readiness.wait(0.01)
    asyncio.run(readiness.wait_async(0.01))
    report(NOT_READY)
    readiness.wait(ENDLESS)
    asyncio.run(readiness.wait_async(ENDLESS))


def test_readiness_of_a_forked_child(set_statuses) -> None:
    """A database that was ready in the parent is ready in a forked child."""
    set_statuses(READY)
    assert in_child(lambda: readiness.ready() and not readiness._polling)


def test_a_child_polls_itself(set_statuses) -> None:
    """A forked child starts its own pollers, also if the parent held the lock."""
    set_statuses(NOT_READY)

    def watches() -> bool:
        before = readiness._polling
        readiness.start()
        return not before and readiness._polling

    with readiness._lock:
        assert in_child(watches)
    assert readiness._polling


def test_a_worker_polls_from_its_start(set_statuses) -> None:
    """After `install`, a forked worker polls at once; its parent does not."""
    readiness.install()
    assert not readiness._polling
    assert in_child(lambda: readiness._polling and not readiness.ready())


def test_a_helper_of_a_server_does_not_poll(set_statuses) -> None:
    """A process that a serving process forks neither polls nor initializes."""
    readiness.install()
    set_statuses(NOT_READY)
    assert readiness._polling
    assert in_child(lambda: not readiness._polling)


def test_a_helper_closes_the_pipe_of_its_parent(set_statuses, monkeypatch) -> None:
    """A forked process does not keep its parent's initialization child alive."""
    set_statuses(NOT_READY)
    disowned = []
    supervisor = SimpleNamespace(
        close_in_fork=lambda: disowned.append(1), stop=lambda: None
    )
    monkeypatch.setattr(readiness, "_supervisor", supervisor)
    assert in_child(lambda: disowned == [1] and readiness._supervisor is None)


def test_a_wait_in_a_child(set_statuses) -> None:
    """A wait in a forked child of a ready process returns at once."""
    set_statuses(READY)
    assert in_child(lambda: readiness._first_result.is_set())


def test_reset(set_statuses) -> None:
    """After `reset` the process knows as little as a new one."""
    set_statuses(READY)
    readiness.reset()
    assert not readiness.ready()
    assert readiness.status("default") is None


# Tenants


def test_tenants_that_are_behind(set_statuses) -> None:
    """A ready database blocks the tenants that are behind, until none is."""
    set_statuses(SHARED_READY)
    report_blocked(BLOCKED)
    assert readiness.complete  # none was blocked by the first report, and none is added
    readiness.reset()
    readiness.start()
    report_blocked(BLOCKED)
    assert (readiness.ready(), readiness.complete) == (True, False)
    assert readiness.is_blocked("default", "t1")
    assert readiness.is_blocked_host("default", "t1.example")
    assert not readiness.is_blocked("default", "t0")
    assert not readiness.is_blocked("default", None)
    assert not readiness.is_blocked("other", "t1")
    assert not readiness.is_blocked_host("other", "t1.example")
    later = BlockedTenants(frozenset({"t2", "t3"}), {"t3.example": "t3"})
    report_blocked(later)
    assert not readiness.is_blocked("default", "t1")
    assert readiness.is_blocked("default", "t2")
    assert not readiness.is_blocked("default", "t3")  # created later
    assert not readiness.is_blocked_host("default", "t3.example")
    report(READY)
    assert readiness.complete


def test_a_poll_that_fails_keeps_the_tenants(set_statuses) -> None:
    """A ready database stays ready while its server does not answer a later poll."""
    set_statuses(NOT_READY)
    report_blocked(BLOCKED)
    report(Status.unreachable("default", "gone"))
    assert readiness.ready()
    assert readiness.status("default") is SHARED_READY
    assert readiness.is_blocked("default", "t1")


def test_other_databases_of_tenants(set_statuses) -> None:
    """The tenants of each database are known apart."""
    set_statuses(NOT_READY, OTHER)
    report_blocked(BLOCKED)
    assert readiness.is_blocked("default", "t1")
    assert not readiness.is_blocked("other", "t1")
    report(OTHER)
    assert readiness.is_blocked("default", "t1")
    assert not readiness.complete


def test_a_child_polls_for_tenants(set_statuses) -> None:
    """A forked child serves at once, and polls until no tenant is behind."""
    set_statuses(NOT_READY)
    report_blocked(BLOCKED)

    def polls() -> bool:
        at_once = readiness._first_result.is_set() and readiness.ready()
        readiness.start()
        return at_once and [each.alias for each in readiness._pollers] == ["default"]

    assert in_child(polls)


def test_revoked_while_tenants_are_behind(set_statuses) -> None:
    """After a failover nothing is served, and another poller begins."""
    set_statuses(NOT_READY)
    report_blocked(BLOCKED)
    [before] = readiness._pollers
    readiness._revoke(NOT_READY)
    assert not readiness.ready()
    assert not readiness.is_blocked("default", "t1")
    assert readiness._pollers != [before]
