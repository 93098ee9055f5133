"""The thread that polls one database until it is ready for this build."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing

from django_safe_init.backends import get_features
from django_safe_init.conf import get_settings
from django_safe_init.core.build import Build, current_build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import (
    DatabaseUnreachable,
    LoginRefused,
    SafeInitError,
    WaitTimeout,
)
from django_safe_init.status import (
    Status,
    StatusDetail,
    carry_forward,
    open_reader,
    read_detail,
    read_status,
    with_blocked,
    with_estimate,
)

logger = logging.getLogger("django_safe_init")

#: Seconds between two polls, before jitter.
MIN_INTERVAL, MAX_INTERVAL = 1.0, 3.0
#: The share of the time that polls may take: the slower the database server answers, the fewer
#: connections a fleet opens.
_MAX_SHARE = 1 / 20


class StatusPoller(threading.Thread):
    """A thread that polls the database until it is ready. Each poll opens a short connection.

    `report` is called with each result, in this thread. Errors become a status too: only `stop`
    and a ready database end the thread. If a database is ready while schemas of tenants are
    behind, it goes on until none is.
    """

    def __init__(
        self, alias: str, build: Build | None, report: Callable[[StatusDetail], None]
    ) -> None:
        super().__init__(name=f"safe_init {alias}", daemon=True)
        self.alias = alias
        self._build = build
        self._report = report
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Stop; return when the thread has ended and its connection is closed."""
        self._stopped.set()
        self.join()

    def cancel(self) -> None:
        """Let the thread end after its current poll, without waiting for it."""
        self._stopped.set()

    def run(self) -> None:
        """Poll, report and pause until the database is ready for all tenants."""
        before: StatusDetail | None = None
        while not self._stopped.is_set():
            started = time.monotonic()
            detail = self._poll_once(before)
            if self._stopped.is_set():
                return
            _log_change(detail.status, before.status if before else None)
            self._report(detail)
            if detail.status.complete:
                return
            before = detail
            self._stopped.wait(poll_interval(time.monotonic() - started))

    def _poll_once(self, before: StatusDetail | None) -> StatusDetail:
        try:
            return self._read(before)
        except LoginRefused as exc:
            return StatusDetail(Status.failed(self.alias, str(exc)))
        except (DatabaseUnreachable, WaitTimeout) as exc:
            return StatusDetail(Status.unreachable(self.alias, str(exc)))
        except SafeInitError as exc:
            return StatusDetail(Status.failed(self.alias, str(exc)))
        except Exception as exc:  # noqa: BLE001  (this thread must survive any error)
            text = f"{type(exc).__name__}: {one_line(exc)}"
            return StatusDetail(Status.failed(self.alias, text))

    def _read(self, before: StatusDetail | None) -> StatusDetail:
        settings = get_settings()
        if get_features(self.alias).is_private:
            return StatusDetail(Status.private(self.alias))
        self._build = self._build or current_build()
        reader = open_reader(self.alias, settings, Deadline(0), self._build)
        with closing(reader):
            if settings.status_token:  # the token unlocks the details
                detail = read_detail(self.alias, reader, before)
            else:
                detail = _from_status(read_status(self.alias, reader), before)
            return with_blocked(with_estimate(detail, reader), reader)


def _from_status(status: Status, before: StatusDetail | None) -> StatusDetail:
    return StatusDetail(status) if status.run else carry_forward(status, before)


def poll_interval(seconds: float) -> float:
    """Return the seconds to wait after a poll that took `seconds`."""
    pause = min(max(MIN_INTERVAL, seconds / _MAX_SHARE), MAX_INTERVAL)
    return pause * random.uniform(1.0, 1.25)


def _log_change(status: Status, before: Status | None) -> None:
    """Log a changed status, so that the log tells why requests are blocked."""
    if before and (before.state, before.error) == (status.state, status.error):
        return
    if status.error:
        logger.warning("%s is not ready: %s", status.database, status.error)
    elif status.ready:
        logger.info("%s is ready for this process", status.database)
    else:
        logger.info("%s is not ready: %s", status.database, status.message)
