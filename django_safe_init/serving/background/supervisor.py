"""The thread that starts and restarts the child process that initializes.

A web process whose `SERVE` is "initialize" runs one supervisor until all databases are ready.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.util import Finalize

from django_safe_init.conf import get_settings
from django_safe_init.core.build import Build, current_build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.states import State
from django_safe_init.core.text import one_line
from django_safe_init.initialization.release import ReceiverPolicy
from django_safe_init.serving.background.backoff import (
    backoff,
    is_idle,
    receivers_are_due,
    seconds_until_due,
)
from django_safe_init.serving.background.child_process import (
    NOTHING_TO_DO,
    READY,
    SECONDS_TO_CLEAN_UP,
    ChildResult,
    InitializationProcess,
)
from django_safe_init.serving.background.host_lock import (
    HostLock,
    OrphanedChild,
    host_lock,
)
from django_safe_init.serving.background.reloads import server_seconds
from django_safe_init.serving.background.termination_signals import termination
from django_safe_init.status import Status

logger = logging.getLogger("django_safe_init")

#: Seconds between two checks of the known statuses. Random, so that one of many processes is
#: first.
_CHECK_SECONDS = (0.1, 1.0)
#: Seconds after which the runs of a database are read again, at the latest: another process may
#: have tried, and died.
_MAX_POSTPONE_SECONDS = 2.0
#: Seconds between two checks whether an orphaned child has exited.
_ORPHAN_POLL_SECONDS = 0.02


#: The error of a child whose result is not this process's view of the databases.
_CONTRADICTION = (
    "The child process reported {!r}, but the database is not initialized for this process. "
    "Restart the server: its code or settings have changed since it started."
)


def server_process() -> int | None:
    """Return the ID of the process that replaces this worker, or None if that is not certain.

    It is the parent of a worker of gunicorn, and of uvicorn with several workers: both send a
    signal to a worker when the server ends. hypercorn sends none, so a worker of it that exits
    cannot know why; a worker of granian that is replaced receives the same signal.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        is_uvicorn = "uvicorn" in sys.modules and "hypercorn" not in sys.modules
        return parent.pid if is_uvicorn else None
    is_gunicorn = os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn/")
    return os.getppid() if is_gunicorn else None


class ExitHook:
    """A function that is called when this process exits.

    Python calls no `atexit` function in a worker that `multiprocessing` has forked, as granian's
    are, before Python 3.13. It calls the finalizers of `multiprocessing` in each of its processes.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._finalizer: Finalize | None = None

    def install(self) -> None:
        """Call the function at the exit of this process, also if it is only a worker."""
        if multiprocessing.parent_process() is None:
            atexit.register(self._function)
        else:
            self._finalizer = Finalize(None, self._function, exitpriority=0)

    def remove(self) -> None:
        """Forget the function, in this process."""
        atexit.unregister(self._function)
        if self._finalizer is not None:
            self._finalizer.cancel()


class InitializationSupervisor(threading.Thread):
    """A thread that has the databases initialized, and ends when all are ready for all tenants.

    While a leader is active it does nothing. Otherwise it starts a child process, which leads,
    or follows a leader that was faster. A host has one such child at a time. `known` returns the
    newest status of an alias, or None.

    The child ends with this process if the process is told to terminate or is killed. If the
    server replaces this process, the child continues, and ends with the server.
    """

    def __init__(
        self,
        aliases: Iterable[str],
        build: Build | None,
        known: Callable[[str], Status | None],
    ) -> None:
        super().__init__(name="safe_init background", daemon=True)
        self._aliases = tuple(aliases)
        self._build = build
        self._known = known
        # Read early: a worker whose server was killed has another parent.
        self._server = server_process()
        self._exit_hook = ExitHook(self._at_exit)
        self._stopped = threading.Event()
        # Reentrant: a signal handler also acquires it, and may interrupt its holder.
        self._lock = threading.RLock()
        self._host: HostLock | None = None
        self._child: InitializationProcess | None = None
        self._failures = 0
        #: The error of the last child; empty if it did not fail.
        self._error = ""
        self._not_before = 0.0
        self._receivers_have_run = False

    def run(self) -> None:
        """Check the known statuses, and initialize idle databases, until all are ready."""
        self._exit_hook.install()
        termination.on_first_signal = self._end_child
        while not self._stopped.wait(random.uniform(*_CHECK_SECONDS)):
            statuses = [self._known(alias) for alias in self._aliases]
            is_postponed = time.monotonic() < self._not_before
            if all(status is not None and status.complete for status in statuses):
                if not self._may_need_receivers():
                    break
                if not is_postponed:
                    self._with_host_lock(self._run_receivers_if_due)
                continue
            idle = [each.database for each in statuses if each and is_idle(each)]
            if idle and not is_postponed:
                self._try_initialize(idle)
        termination.on_first_signal = None
        self._exit_hook.remove()

    def with_error(self, status: Status) -> Status:
        """Return the status with the error of the last child, unless a run tells one.

        Not every failure can be recorded: a role may lack the right to do so. The first
        one may pass, so only the second in a row changes the state.
        """
        error = self._error
        if not error or status.error or status.ready or not is_idle(status):
            return status
        if self._failures > 1:
            return replace(status, state=State.ERROR, message=error, error=error)
        message = f"{status.message}; a child process failed: {error}"
        return replace(status, message=message, error=error)

    def stop(self) -> None:
        """End the child; return when the child and this thread have ended."""
        self._end_child()
        self.join()

    def _end_child(self) -> None:
        self._stopped.set()
        with self._lock:
            child = self._child
        if child is not None:
            child.end()
        elif self._build is not None:
            _terminate_orphan(host_lock(self._build), self._server)

    def _at_exit(self) -> None:
        """End the child, or detach it to the server that replaces this process."""
        server = self._server
        if server is None or termination.received or not termination.installed:
            self._end_child()
            return
        self._stopped.set()
        with self._lock:
            child, host = self._child, self._host
        if child is not None and host is not None and host.file is not None:
            host.set_orphan(OrphanedChild(child.pid, server))
            child.detach_to(server)
            logger.info("Process %s goes on initializing without this one.", child.pid)
        elif child is not None:
            child.end()

    def close_in_fork(self) -> None:
        """Give up the lock and the child in a forked process: they belong to the parent."""
        self._exit_hook.remove()
        if self._host is not None:
            self._host.close()
        if self._child is not None:
            self._child.close_in_fork()

    def _may_need_receivers(self) -> bool:
        """Return True unless ready databases need no run for the receivers' sake."""
        if self._receivers_have_run:
            return False
        return ReceiverPolicy.of(get_settings()) != ReceiverPolicy()

    def _try_initialize(self, aliases: Sequence[str]) -> None:
        self._with_host_lock(
            lambda build, host: self._initialize_if_due(aliases, build, host)
        )

    def _with_host_lock(self, work: Callable[[Build, HostLock], None]) -> None:
        """Call `work` if no other process on this host has a child."""
        try:
            self._build = build = self._build or current_build()
            host = host_lock(build)
            if not host.acquire():
                return
            try:
                work(build, host)
            finally:
                self._host = None
                host.release()
        except Exception as exc:  # noqa: BLE001  (this thread must survive any error)
            self._fail(f"{type(exc).__name__}: {one_line(exc)}")

    def _initialize_if_due(
        self, aliases: Sequence[str], build: Build, host: HostLock
    ) -> None:
        # The known statuses may be seconds old: another process may have been faster.
        seconds = _seconds_until_due(aliases, build)
        if seconds > 0:
            self._postpone(min(seconds, _MAX_POSTPONE_SECONDS))
            return
        result = self._initialize(host)
        if result is not None:
            self._conclude(result, aliases, build)

    def _run_receivers_if_due(self, build: Build, host: HostLock) -> None:
        """Run a child that leads a run, although all databases are ready."""
        if not receivers_are_due(self._aliases, build, server_seconds()):
            self._receivers_have_run = True
            return
        result = self._initialize(host, if_due=False)
        if result is not None and result.result == READY:
            self._receivers_have_run = True
            logger.info("The initialization in the background has ended: ready.")
        elif result is not None:
            self._fail(result.error)

    def _initialize(self, host: HostLock, *, if_due: bool = True) -> ChildResult | None:
        """Run a child; return its result, or None if this process ends."""
        with self._lock:
            if self._stopped.is_set():
                return None
            self._host = host
            self._child = child = InitializationProcess(if_due=if_due, holding=host)
        logger.info("Initializing in the background, in process %s.", child.pid)
        result = child.result()
        with self._lock:
            self._child = None
        return None if self._stopped.is_set() else result

    def _conclude(
        self, result: ChildResult, aliases: Sequence[str], build: Build
    ) -> None:
        self._error = ""
        if result.result not in (READY, NOTHING_TO_DO):
            self._fail(result.error)
        elif _seconds_until_due(aliases, build) <= 0:
            # Otherwise such a child would be started again and again.
            self._fail(_CONTRADICTION.format(result.result))
        elif result.result == READY:
            self._failures = 0
            logger.info("The initialization in the background has ended: ready.")
        else:
            logger.info("Another process was faster: the child process did nothing.")

    def _fail(self, error: str) -> None:
        self._error = error
        self._failures += 1
        pause = backoff(self._failures) * random.uniform(1.0, 1.25)
        self._postpone(pause)
        logger.warning(
            "The initialization in the background failed, and is not tried again here within "
            "%.0f s: %s",
            pause,
            error,
        )

    def _postpone(self, seconds: float) -> None:
        self._not_before = time.monotonic() + seconds


def _seconds_until_due(aliases: Sequence[str], build: Build) -> float:
    return min(seconds_until_due(alias, build) for alias in aliases)


def _terminate_orphan(host: HostLock, server: int | None) -> None:
    """Terminate the child that an earlier worker of this server has detached."""
    orphan = host.orphan()
    if orphan is None or orphan.server != server:
        return
    with suppress(ProcessLookupError):
        os.kill(orphan.pid, signal.SIGTERM)
    deadline = Deadline(SECONDS_TO_CLEAN_UP)
    while host.orphan() is not None and not deadline.passed():
        time.sleep(_ORPHAN_POLL_SECONDS)
