"""What this process knows of its databases: found out beside the requests, never by one."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

from django_safe_init.conf import get_settings, in_project_tests, should_initialize
from django_safe_init.core.build import Build, current_build
from django_safe_init.core.deadline import Deadline
from django_safe_init.serving.background.poller import StatusPoller
from django_safe_init.serving.background.termination_signals import termination
from django_safe_init.status import Status, StatusDetail

if TYPE_CHECKING:
    from django_safe_init.serving.background.supervisor import InitializationSupervisor


class Readiness:
    """The newest news of each database in `SAFE_INIT["DATABASES"]`.

    Unknown is not ready, and ready is for good: what this build needs does not go away by
    itself. Safe to use from any thread and any event loop.
    """

    def __init__(self) -> None:
        self._know_nothing()

    def _know_nothing(self) -> None:
        #: Whether everything is ready, for who must not even pay for a call.
        self.complete = False
        self._known: dict[str, StatusDetail] = {}
        self._ready: set[str] = set()
        self._build: Build | None = None
        self._watches_in_children = False
        self._watch_nothing()

    def _watch_nothing(self) -> None:
        self._lock = threading.Lock()
        self._lookouts: list[StatusPoller] = []
        self._background: InitializationSupervisor | None = None
        self._watching = False
        self._is_to_initialize = False
        self._unheard: set[str] = set()
        self._heard = threading.Event()
        if self.complete:
            self._heard.set()

    def status(self, alias: str) -> Status | None:
        """The newest status of the alias, or None while nothing is known of it.

        Never waits and never asks the database. A database that cannot be reached has the
        state "connecting", and the reason as its error.
        """
        scene = self._known.get(alias)
        return scene.status if scene else None

    def scene(self, alias: str) -> StatusDetail | None:
        """`status` and all that was seen with it: more where there is a `STATUS_TOKEN`."""
        return self._known.get(alias)

    def ready(self, alias: str | None = None) -> bool:
        """Whether the alias, or all of `SAFE_INIT["DATABASES"]`, is known to be ready."""
        return self.complete if alias is None else alias in self._ready

    def prepare(self) -> None:
        """What a server does when it loads the application, perhaps before it forks.

        Notes what this build expects, and lets each process that is forked from now on watch
        from its start. Touches no database and starts nothing in this process.
        """
        self._build = current_build()
        self._watches_in_children = True
        if should_initialize(get_settings()):
            termination.heed()

    def watch(self) -> None:
        """Make sure that this process looks at its databases until they are ready.

        To be called wherever it serves; all but the first call cost next to nothing. With
        `SERVE` "initialize" it also sees to it that somebody initializes them. Does nothing in
        a project's own tests.
        """
        if self.complete:
            return
        self._begin()
        if self._background is not None:
            termination.heed()  # the server may have changed its handlers since

    def _begin(self) -> None:
        self.look()
        if self._is_to_initialize:
            self._initialize()

    def look(self) -> None:
        """`watch` for a process that does not serve: it never initializes.

        Each database has a thread of its own, so that one that hangs does not keep back the
        news of others.
        """
        if self._watching or self.complete:
            return
        settings = get_settings()
        if in_project_tests(settings):
            return
        with self._lock:
            if not self._watching:
                self._start(set(settings.databases) - self._ready)
                self._is_to_initialize = should_initialize(settings)
                self._watching = True

    def _start(self, aliases: set[str]) -> None:
        self._unheard = set(aliases)
        self._lookouts = [
            StatusPoller(alias, self._build, self.hear) for alias in aliases
        ]
        for lookout in self._lookouts:
            lookout.start()

    def _initialize(self) -> None:
        # Here, because a server that only looks should not pay for it.
        from django_safe_init.serving.background.supervisor import (
            InitializationSupervisor,
        )

        with self._lock:
            if self._is_to_initialize:
                self._is_to_initialize = False
                aliases = [lookout.alias for lookout in self._lookouts]
                self._background = InitializationSupervisor(
                    aliases, self._build, self.status
                )
                self._background.start()

    def hear(self, scene: StatusDetail) -> None:
        """Take in what a lookout has seen."""
        status = scene.status
        with self._lock:
            self._known[status.database] = scene
            self._unheard.discard(status.database)
            if status.ready:
                self._ready.add(status.database)
            self.complete = self._ready >= {each.alias for each in self._lookouts}
            if not self._unheard:
                self._heard.set()

    def wait(self, seconds: float) -> None:
        """Return as soon as every database was looked at once, or after `seconds`.

        That is at once, except in the first moments of a process.
        """
        self._heard.wait(seconds)

    async def await_news(self, seconds: float) -> None:
        """`wait` for an event loop, which goes on meanwhile."""
        deadline = Deadline(seconds)
        while not (self._heard.is_set() or deadline.passed()):
            await asyncio.sleep(0.005)

    def forget(self) -> None:
        """Know nothing, as a new process does; no thread looks any more."""
        for thread in (*self._lookouts, self._background):
            if thread is not None:
                thread.stop()
        self._know_nothing()

    def after_fork(self) -> None:
        """In a child: the parent's threads are not here, and what it knew is still true.

        The child of a process that has only loaded the application is a worker, and watches.
        That of a process that serves is a helper of the application, and does not.
        """
        is_worker = self._watches_in_children and not self._watching
        if self._background is not None:
            self._background.disown()
        termination.forget()
        self._watch_nothing()
        if is_worker:
            self._begin()  # signals are heeded later: the server has still to set its handlers


#: That of this process.
readiness = Readiness()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=readiness.after_fork)
