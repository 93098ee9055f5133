"""Check a ready database again after its application has lost a connection.

A failover to a standby that lacks the newest transactions takes migrations back, together with
their records. The application notices a failover by lost connections. So its next new connection
starts a check, on a thread and not on the request path.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

from django.core.signals import got_request_exception
from django.db import InterfaceError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from django_safe_init.backends import get_backend_class, get_features
from django_safe_init.backends.base.losses import LossDetector
from django_safe_init.conf import get_settings
from django_safe_init.core.build import Build
from django_safe_init.core.databases import existing_wrapper
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.text import exception_chain
from django_safe_init.status import Status, open_reader, read_status

logger = logging.getLogger("django_safe_init")

#: The shortest time between the beginnings of two checks of one database, in seconds.
MIN_INTERVAL = 30.0
#: The seconds between two reads of one check.
SECONDS_BETWEEN_READS = 5.0
#: Reads until a check gives up on a server that does not answer, or stays a standby.
_MAX_READS = 60
#: Reads on a primary that must lack something before the database is not ready any more.
_READS_TO_REVOKE = 2


class ReadinessCheck(threading.Thread):
    """A thread that reads the database until the answer is certain.

    It begins after `delay` seconds. `revoke` is called, in this thread, with the status of a
    database that lacks something. Each read opens a short connection.
    """

    def __init__(
        self,
        alias: str,
        build: Build | None,
        delay: float,
        revoke: Callable[[Status], None],
    ) -> None:
        super().__init__(name=f"safe_init recheck {alias}", daemon=True)
        self.alias = alias
        self._build = build
        self._delay = delay
        self._revoke = revoke
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Stop; return when the thread has ended and its connection is closed."""
        self._stopped.set()
        self.join()

    def run(self) -> None:
        """Read until one read finds everything, or two reads on a primary lack something."""
        if self._stopped.wait(self._delay):
            return
        lacking = 0
        for _ in range(_MAX_READS):
            status = self._read()
            if status is not None:
                lacking += 1
                if not status.pending:
                    return
                if lacking == _READS_TO_REVOKE:
                    self._revoke(status)
                    return
            if self._stopped.wait(SECONDS_BETWEEN_READS):
                return

    def _read(self) -> Status | None:
        """Return the status, or None if this read says nothing about a primary."""
        try:
            reader = open_reader(self.alias, get_settings(), Deadline(0), self._build)
            with closing(reader):
                status = read_status(self.alias, reader)
                is_known = status.ready or status.run is not None or status.pending
                return status if is_known and reader.on_primary() else None
        except Exception as exc:  # noqa: BLE001  (this thread must survive any error)
            logger.debug("%s was not checked again: %s", self.alias, exc)
            return None


class Recheck:
    """The checks of one process's ready databases.

    `revoke` is called with the status of a database that lacks something. Safe to use from any
    thread.
    """

    def __init__(self, revoke: Callable[[Status], None]) -> None:
        self._revoke = revoke
        self._reset_state()

    def _reset_state(self) -> None:
        self._aliases: frozenset[str] = frozenset()
        self._build: Build | None = None
        self._detectors: dict[str, LossDetector] = {}
        self._lost: set[str] = set()
        self.after_fork()

    def after_fork(self) -> None:
        """Drop the parent's threads in a forked process."""
        self._lock = threading.Lock()
        self._checks: dict[str, ReadinessCheck] = {}
        self._checked_at: dict[str, float] = {}

    def watch(self, aliases: Iterable[str], build: Build | None) -> None:
        """Check these databases again after the application has lost a connection to them."""
        self._aliases, self._build = frozenset(aliases), build
        connection_created.connect(self._on_connection)
        got_request_exception.connect(self._on_exception)

    def stop(self) -> None:
        """Stop the checks; return when their threads have ended."""
        connection_created.disconnect(self._on_connection)
        got_request_exception.disconnect(self._on_exception)
        for check in list(self._checks.values()):
            check.stop()
        self._reset_state()

    def _on_exception(self, **kwargs: Any) -> None:
        """Note a request that failed because a connection was lost, or none could be made."""
        error = sys.exc_info()[1]
        self._lost.update(alias for alias in self._aliases if _is_loss(alias, error))

    def _on_connection(self, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
        alias = connection.alias
        # The application's connections only, not this package's.
        if alias not in self._aliases or existing_wrapper(alias) is not connection:
            return
        detector = self._detectors.setdefault(alias, _loss_detector(alias))
        if detector.pop() or alias in self._lost:
            self._lost.discard(alias)
            self._check(alias)
        detector.add(connection.connection)

    def _check(self, alias: str) -> None:
        with self._lock:
            running = self._checks.get(alias)
            if running is not None and running.is_alive():
                return
            now = time.monotonic()
            last = self._checked_at.get(alias, now - MIN_INTERVAL)
            delay = max(0.0, last + MIN_INTERVAL - now)
            self._checked_at[alias] = now + delay
            check = ReadinessCheck(alias, self._build, delay, self._revoke)
            self._checks[alias] = check
            check.start()


def _loss_detector(alias: str) -> LossDetector:
    if not get_features(alias).is_supported:
        return LossDetector()
    return get_backend_class(alias).loss_detector()


def _is_loss(alias: str, error: BaseException | None) -> bool:
    for each in exception_chain(error):
        if isinstance(each, InterfaceError):
            return True
        if isinstance(each, OperationalError):
            supported = get_features(alias).is_supported
            return not supported or get_backend_class(alias).is_connection_loss(each)
    return False
