"""A thread that looks at one database until this build is ready."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing

from django_safe_init.conf import Settings, get_settings
from django_safe_init.core.build import Build, current_build
from django_safe_init.core.databases import BackendKind, engine_of
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
    with_estimate,
)

logger = logging.getLogger("django_safe_init")

#: Between two looks, before jitter. A fleet's looks are connections: the longer one takes,
#: because the server is busy, the later comes the next.
MIN_PAUSE, MAX_PAUSE = 1.0, 3.0
_PART_OF_THE_TIME = 1 / 20


class StatusPoller(threading.Thread):
    """Looks until it has seen "ready"; each look is a connection of its own, soon closed.

    `report` is called with what each saw, on this thread. What goes wrong is a status too: the
    thread ends by `stop` or by "ready", and by nothing else.
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
        """Return when the thread has ended, and its connection is closed."""
        self._stopped.set()
        self.join()

    def run(self) -> None:
        """Look, report, pause."""
        before: StatusDetail | None = None
        while not self._stopped.is_set():
            started = time.monotonic()
            scene = self._look(before)
            _tell(scene.status, before.status if before else None)
            self._report(scene)
            if scene.status.ready:
                return
            before = scene
            self._stopped.wait(poll_interval(time.monotonic() - started))

    def _look(self, before: StatusDetail | None) -> StatusDetail:
        try:
            settings = get_settings()
            if not can_initialize(self.alias, settings):
                return StatusDetail(Status.without_lock(self.alias))
            self._build = self._build or current_build()
            reader = open_reader(self.alias, settings, Deadline(0), self._build)
            with closing(reader):
                if settings.status_token:  # somebody may ask for more than the status
                    scene = read_detail(self.alias, reader, before)
                else:
                    scene = _plain_scene(read_status(self.alias, reader), before)
                return with_estimate(scene, reader)
        except LoginRefused as exc:
            return StatusDetail(Status.failed(self.alias, str(exc)))
        except (DatabaseUnreachable, WaitTimeout) as exc:
            return StatusDetail(Status.unreachable(self.alias, str(exc)))
        except SafeInitError as exc:
            return StatusDetail(Status.failed(self.alias, str(exc)))
        except Exception as exc:  # noqa: BLE001  (without this thread nothing gets ready)
            text = f"{type(exc).__name__}: {one_line(exc)}"
            return StatusDetail(Status.failed(self.alias, text))


def _plain_scene(status: Status, before: StatusDetail | None) -> StatusDetail:
    return StatusDetail(status) if status.run else carry_forward(status, before)


def can_initialize(alias: str, settings: Settings) -> bool:
    """Whether somebody can lead on this database, so that there is something to wait for."""
    engine = engine_of(alias)
    # What is not supported, and not accepted either, is an error that the look will meet.
    return engine.has_lock or (
        engine is BackendKind.UNKNOWN and settings.lock == "auto"
    )


def poll_interval(seconds: float) -> float:
    """How long to wait after a look that took `seconds`."""
    pause = min(max(MIN_PAUSE, seconds / _PART_OF_THE_TIME), MAX_PAUSE)
    return pause * random.uniform(1.0, 1.25)


def _tell(status: Status, before: Status | None) -> None:
    """Log what has changed, so that the log of a held server says why it is held."""
    if before and (before.state, before.error) == (status.state, status.error):
        return
    if status.error:
        logger.warning("%s is not ready: %s", status.database, status.error)
    elif status.ready:
        logger.info("%s is ready for this process", status.database)
    else:
        logger.info("%s is not ready: %s", status.database, status.message)
