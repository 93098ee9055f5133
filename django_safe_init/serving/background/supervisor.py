"""When a server that initializes its databases itself does so: the thread that sees to it."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from django_safe_init.core.build import Build, current_build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.text import one_line
from django_safe_init.serving.background.backoff import (
    backoff,
    is_idle,
    seconds_until_due,
)
from django_safe_init.serving.background.child_process import (
    NOT_DUE,
    SECONDS_TO_CLEAN_UP,
    InitializationProcess,
)
from django_safe_init.serving.background.host_lock import (
    HostLock,
    OrphanedChild,
    host_lock,
)
from django_safe_init.serving.background.termination_signals import termination
from django_safe_init.status import Status

logger = logging.getLogger("django_safe_init")

#: Between two looks at what is known: at random, so that of many processes one is the first.
_SECONDS_BETWEEN_LOOKS = (0.1, 1.0)
#: What is due later is looked at again by then: somebody else may have tried, and died.
_MOST_SECONDS_UNSEEN = 2.0
#: Between two looks whether a child has ended that is not this process's own.
_SECONDS_BETWEEN_SIGNS = 0.02


def server_process() -> int | None:
    """The process that replaces this worker when it ends; None if this is no worker.

    That is the parent, under gunicorn and under all that start their workers with
    `multiprocessing`, as uvicorn does.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        return parent.pid
    is_gunicorn = os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn/")
    return os.getppid() if is_gunicorn else None


class InitializationSupervisor(threading.Thread):
    """Sees to it that somebody initializes, until all is ready.

    Where a leader is at work there is nothing to do. Otherwise a child process leads, or
    follows one that was faster; a host has one such child at a time. After a failed run the
    pause before the next one is told by the runs in the database: all processes of a fleet wait
    for about the same moment, and the first of them tries for all. `known` gives the newest
    status of an alias.

    The child ends with this process, if that is told to end or is killed. If its server
    replaces it, the child goes on, and ends with the server.
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
        # Now: a worker whose server is killed has another parent afterwards.
        self._server = server_process()
        self._stopped = threading.Event()
        # Entered in a signal handler too, which may interrupt whoever is inside.
        self._lock = threading.RLock()
        self._host: HostLock | None = None
        self._child: InitializationProcess | None = None
        self._failures = 0
        self._not_before = 0.0

    def run(self) -> None:
        """Look at what is known, and act when it is time."""
        atexit.register(self._leave)
        termination.first = self._end_child
        while not self._stopped.wait(random.uniform(*_SECONDS_BETWEEN_LOOKS)):
            statuses = [self._known(alias) for alias in self._aliases]
            if all(status is not None and status.ready for status in statuses):
                break
            at_rest = [each.database for each in statuses if each and is_idle(each)]
            if at_rest and time.monotonic() >= self._not_before:
                self._act(at_rest)
        termination.first = None
        atexit.unregister(self._leave)

    def stop(self) -> None:
        """End the child; returns when both it and this thread have ended."""
        self._end_child()
        self.join()

    def _end_child(self) -> None:
        self._stopped.set()
        with self._lock:
            child = self._child
        if child is not None:
            child.end()
        elif self._build is not None:
            _end_heir(host_lock(self._build), self._server)

    def _leave(self) -> None:
        """At the end of this process: end the child, or leave it to the server."""
        server = self._server
        if server is None or termination.told or not termination.heeded:
            self._end_child()
            return
        self._stopped.set()
        with self._lock:
            child, host = self._child, self._host
        if child is not None and host is not None and host.file is not None:
            host.bequeath(OrphanedChild(child.pid, server))
            child.leave_to(server)
            logger.info("Process %s goes on initializing without this one.", child.pid)
        elif child is not None:
            child.end()

    def disown(self) -> None:
        """In a forked process: the child is the parent's, and ends with that one alone."""
        atexit.unregister(self._leave)
        if self._host is not None:
            self._host.drop()
        if self._child is not None:
            self._child.disown()

    def _act(self, aliases: Sequence[str]) -> None:
        try:
            self._build = build = self._build or current_build()
            host = host_lock(build)
            if not host.take():  # another process on this host is at it
                return
            try:
                self._act_for_host(aliases, build, host)
            finally:
                self._host = None
                host.remove()
        except Exception as exc:  # noqa: BLE001  (without this thread nobody initializes)
            self._fail(f"{type(exc).__name__}: {one_line(exc)}")

    def _act_for_host(
        self, aliases: Sequence[str], build: Build, host: HostLock
    ) -> None:
        # What is known may be a second old: another process may have been faster.
        seconds = min(seconds_until_due(alias, build) for alias in aliases)
        if seconds > 0:
            self._leave_alone(min(seconds, _MOST_SECONDS_UNSEEN))
        else:
            self._initialize(host)

    def _initialize(self, host: HostLock) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            self._host = host
            self._child = child = InitializationProcess(if_due=True, holding=host)
        self._await(child)

    def _await(self, child: InitializationProcess) -> None:
        logger.info("Initializing in the background, in process %s.", child.pid)
        code, error = child.result()
        with self._lock:
            self._child = None
        if code == 0:
            self._failures = 0
            logger.info("The initialization in the background has ended: ready.")
        elif code == NOT_DUE:
            logger.info(
                "Another process was faster: process %s did nothing.", child.pid
            )
        elif not self._stopped.is_set():
            self._fail(error)

    def _fail(self, error: str) -> None:
        self._failures += 1
        pause = backoff(self._failures) * random.uniform(1.0, 1.25)
        self._leave_alone(pause)
        logger.warning(
            "The initialization in the background failed, and is not tried again here within "
            "%.0f s: %s",
            pause,
            error,
        )

    def _leave_alone(self, seconds: float) -> None:
        self._not_before = time.monotonic() + seconds


def _end_heir(host: HostLock, server: int | None) -> None:
    """End the child that an earlier worker of this server has left to it."""
    heir = host.heir()
    if heir is None or heir.server != server:
        return
    with suppress(ProcessLookupError):
        os.kill(heir.pid, signal.SIGTERM)
    deadline = Deadline(SECONDS_TO_CLEAN_UP)
    while host.heir() is not None and not deadline.passed():
        time.sleep(_SECONDS_BETWEEN_SIGNS)
