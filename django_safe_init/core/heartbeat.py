"""The leader's sign of life."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from django_safe_init.conf import HEARTBEAT_SECONDS, NEWS_SECONDS
from django_safe_init.exceptions import LockLost, SafeInitError

logger = logging.getLogger("django_safe_init")


class Heartbeat:
    """Calls `beat` again and again while entered: the leader's sign of life.

    With `has_news` it is asked often, and what is new is told without waiting for the next beat.

    With PostgreSQL each call is a statement on the leader session, whatever comes of it.
    """

    def __init__(
        self,
        beat: Callable[[], object],
        seconds: float = HEARTBEAT_SECONDS,
        has_news: Callable[[], bool] | None = None,
    ) -> None:
        self.beat = beat
        self.seconds = seconds
        self.has_news = has_news
        self._last = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="safe_init heartbeat", daemon=True
        )

    def _run(self) -> None:
        while not self._stop.wait(self._pause()):
            try:
                self._beat()
            except LockLost:
                return  # the leading thread finds out at its next boundary
            except SafeInitError as exc:
                logger.debug("A sign of life was not recorded: %s", exc)

    def _pause(self) -> float:
        return self.seconds if self.has_news is None else NEWS_SECONDS

    def _beat(self) -> None:
        """Beat if it is time, or if there is something to tell."""
        now = time.monotonic()
        if self.has_news is None or now - self._last >= self.seconds or self.has_news():
            self._last = now
            self.beat()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
