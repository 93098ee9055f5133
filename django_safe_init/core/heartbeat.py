"""The thread that sends the leader's heartbeat."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from django_safe_init.conf import HEARTBEAT_SECONDS, PROGRESS_SECONDS
from django_safe_init.exceptions import LockLost, SafeInitError

logger = logging.getLogger("django_safe_init")


class Heartbeat:
    """Context manager that calls `beat` every `seconds` on a thread.

    With `has_update`, the thread polls it every `PROGRESS_SECONDS` and also calls `beat` when it
    returns True. On PostgreSQL, `beat` executes a statement on the leader's session.

    The thread ends on `LockLost`; other errors of this package are only logged.
    """

    def __init__(
        self,
        beat: Callable[[], object],
        seconds: float = HEARTBEAT_SECONDS,
        has_update: Callable[[], bool] | None = None,
    ) -> None:
        self.beat = beat
        self.seconds = seconds
        self.has_update = has_update
        self._last = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="safe_init heartbeat", daemon=True
        )

    def _run(self) -> None:
        while not self._stop.wait(self._interval()):
            try:
                self._beat_if_due()
            except LockLost:
                return  # the leading thread notices at its next boundary
            except SafeInitError as exc:
                logger.debug("A sign of life was not recorded: %s", exc)

    def _interval(self) -> float:
        return self.seconds if self.has_update is None else PROGRESS_SECONDS

    def _beat_if_due(self) -> None:
        now = time.monotonic()
        if (
            self.has_update is None
            or now - self._last >= self.seconds
            or self.has_update()
        ):
            self._last = now
            self.beat()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
