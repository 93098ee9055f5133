"""The known status of each database, kept by threads so that no request opens a connection."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from django_safe_init.backends import with_lock
from django_safe_init.conf import get_settings, in_project_tests, should_initialize
from django_safe_init.core.build import Build, current_build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.schemas import NONE_BLOCKED, BlockedTenants
from django_safe_init.core.text import name_some
from django_safe_init.serving.background.poller import StatusPoller
from django_safe_init.serving.background.recheck import Recheck
from django_safe_init.serving.background.termination_signals import termination
from django_safe_init.status import Status, StatusDetail

if TYPE_CHECKING:
    from django_safe_init.serving.background.supervisor import InitializationSupervisor

logger = logging.getLogger("django_safe_init")


class Readiness:
    """The newest status of each database in `SAFE_INIT["DATABASES"]`.

    A database without a known status is not ready. A ready one stays ready for the life of the
    process, unless a `Recheck` finds that a failover took migrations back. Safe to use from any
    thread and any event loop.

    With `TENANT_READINESS` "shared", a database is ready before the schemas of all tenants are.
    The polls go on, and the requests of tenants that were behind at the first one are blocked
    until theirs is done. A tenant that was created later is never blocked.
    """

    def __init__(self) -> None:
        self._recheck = Recheck(self._revoke)
        self._reset_state()

    def _reset_state(self) -> None:
        #: True once all databases are ready, for all tenants. An attribute, to be as cheap as
        #: possible.
        self.complete = False
        #: True once all databases are ready, although schemas of tenants may be behind.
        self._all_ready = False
        self._blocked: dict[str, BlockedTenants] = {}
        self._known: dict[str, StatusDetail] = {}
        self._ready: set[str] = set()
        self._build: Build | None = None
        self._starts_in_forks = False
        self._reset_threads()

    def _reset_threads(self) -> None:
        self._lock = threading.Lock()
        self._pollers: list[StatusPoller] = []
        self._supervisor: InitializationSupervisor | None = None
        self._polling = False
        self._needs_supervisor = False
        self._pending: set[str] = set()
        self._first_result = threading.Event()
        if self._all_ready:
            self._first_result.set()

    def status(self, alias: str) -> Status | None:
        """Return the newest status of the alias, or None while it is unknown.

        Never waits and never queries. A database that cannot be reached has the state
        "connecting", and the reason as its error.
        """
        detail = self._known.get(alias)
        return detail.status if detail else None

    def detail(self, alias: str) -> StatusDetail | None:
        """Return the newest status with its details, which are read if `STATUS_TOKEN` is set."""
        return self._known.get(alias)

    def ready(self, alias: str | None = None) -> bool:
        """Return True if the alias, or all of `SAFE_INIT["DATABASES"]`, is known to be ready."""
        return self._all_ready if alias is None else alias in self._ready

    def is_blocked(self, alias: str, schema: str | None) -> bool:
        """Return True if requests for the tenant with this schema have to wait."""
        blocked = self._blocked.get(alias)
        return blocked is not None and schema in blocked.schemas

    def is_blocked_host(self, alias: str, host: str) -> bool:
        """Return True if the host name tells a tenant whose requests have to wait."""
        blocked = self._blocked.get(alias)
        return blocked is not None and host in blocked.hosts

    def install(self) -> None:
        """Prepare a server that loads the application, perhaps before it forks its workers.

        Computes the build, and makes each process that is forked later start polling. Opens no
        connection and starts no thread in this process.
        """
        self._build = current_build()
        self._starts_in_forks = True
        if should_initialize(get_settings()):
            termination.install_handlers()

    def start(self) -> None:
        """Start the threads of a process that serves, unless they were started.

        Polls the databases and, with `SERVE` "initialize", has them initialized. Call it with
        each request: only the first call costs time. Does nothing in a project's own tests.
        """
        if self.complete:
            return
        self._start_threads()
        if self._supervisor is not None:
            # The server may have replaced the signal handlers since the last call.
            termination.install_handlers()

    def _start_threads(self) -> None:
        self.start_polling()
        if self._needs_supervisor:
            self._start_supervisor()

    def start_polling(self) -> None:
        """Start one polling thread per database, without a supervisor.

        For a process that does not serve. A database that hangs delays no other one.
        """
        if self._polling or self.complete:
            return
        settings = get_settings()
        if in_project_tests(settings):
            return
        with self._lock:
            if not self._polling:
                known = self._ready - self._blocked.keys()
                self._start_pollers(set(settings.databases) - known)
                self._needs_supervisor = should_initialize(settings)
                self._polling = True

    def _start_pollers(self, aliases: set[str]) -> None:
        self._pending = set(aliases)
        self._pollers = [
            StatusPoller(alias, self._build, self.update) for alias in aliases
        ]
        for poller in self._pollers:
            poller.start()

    def _start_supervisor(self) -> None:
        # Imported here: a server that only polls does not need it.
        from django_safe_init.serving.background.reloads import detector
        from django_safe_init.serving.background.supervisor import (
            InitializationSupervisor,
        )

        with self._lock:
            if not self._needs_supervisor:
                return
            detector.register()
            aliases = with_lock([poller.alias for poller in self._pollers])
            if detector.is_reload:
                logger.info(
                    "The development server has reloaded, so this process applies "
                    "nothing. If migrations are pending, run: python manage.py safe_migrate"
                )
            elif aliases:
                self._supervisor = InitializationSupervisor(
                    aliases, self._build, self.status
                )
                self._supervisor.start()
            # Last, because other threads do not wait for the lock then.
            self._needs_supervisor = False

    def update(self, detail: StatusDetail) -> None:
        """Store a result of a poller."""
        supervisor = self._supervisor
        if supervisor is not None:
            detail = replace(detail, status=supervisor.with_error(detail.status))
        status = detail.status
        with self._lock:
            self._pending.discard(status.database)
            if status.ready or status.database not in self._ready:
                self._known[status.database] = detail
            if status.ready:
                self._add_ready(status.database, detail.blocked)
            self._all_ready = self._ready >= {each.alias for each in self._pollers}
            self.complete = self._all_ready and not self._blocked
            if self._all_ready:
                self._recheck.watch(self._ready, self._build)
            if not self._pending:
                self._first_result.set()

    def _add_ready(self, alias: str, blocked: BlockedTenants) -> None:
        """Note that the database is ready, and replace the blocked tenants in one assignment."""
        is_first = alias not in self._ready
        self._ready.add(alias)
        if not is_first:
            blocked = blocked.without_others(self._blocked.get(alias, NONE_BLOCKED))
        others = {name: self._blocked[name] for name in self._blocked if name != alias}
        self._blocked = {**others, alias: blocked} if blocked.schemas else others

    def _revoke(self, status: Status) -> None:
        """Close the gate until the database, which was ready, is ready again."""
        alias = status.database
        logger.warning(
            "%s lacks migrations or steps that it had, probably since a failover: %s",
            alias,
            name_some(status.pending),
        )
        with self._lock:
            self._ready.discard(alias)
            self._blocked.pop(alias, None)
            self._known[alias] = StatusDetail(status)
            self.complete = self._all_ready = False
            self._polling = True
            self._needs_supervisor = should_initialize(get_settings())
            poller = StatusPoller(alias, self._build, self.update)
            for each in self._pollers:
                if each.alias == alias:
                    each.cancel()
            others = [each for each in self._pollers if each.alias != alias]
            self._pollers = [*others, poller]
            poller.start()

    def wait(self, seconds: float) -> None:
        """Wait until every database was polled once, for at most `seconds`.

        Returns at once, except in the first moments of a process.
        """
        self._first_result.wait(seconds)

    async def wait_async(self, seconds: float) -> None:
        """Wait as `wait` does, without blocking the event loop."""
        deadline = Deadline(seconds)
        while not (self._first_result.is_set() or deadline.passed()):
            await asyncio.sleep(0.005)

    def reset(self) -> None:
        """Stop the threads and forget all statuses, as in a new process."""
        self._recheck.stop()
        for thread in (*self._pollers, self._supervisor):
            if thread is not None:
                thread.stop()
        self._reset_state()

    def after_fork(self) -> None:
        """Drop the parent's threads in a forked process; its statuses are still true.

        If the parent has only loaded the application, the process is a worker, and polls. If
        the parent serves, the process is a helper of the application, and does not poll.
        """
        is_worker = self._starts_in_forks and not self._polling
        if self._supervisor is not None:
            self._supervisor.close_in_fork()
        termination.reset()
        self._recheck.after_fork()
        self._reset_threads()
        if is_worker:
            # `start` installs the signal handlers later: the server has not yet set its own.
            self._start_threads()


#: The readiness of this process.
readiness = Readiness()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=readiness.after_fork)
