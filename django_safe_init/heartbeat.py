"""The leader's sign of life."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from django_safe_init.conf import HEARTBEAT_SECONDS
from django_safe_init.exceptions import LockLost, SafeInitError

logger = logging.getLogger("django_safe_init")


class Heartbeat:
    """Calls `beat` again and again while entered: the leader's sign of life.

    With PostgreSQL each call is a statement on the leader session, whatever comes of it.
    """

    def __init__(
        self, beat: Callable[[], object], seconds: float = HEARTBEAT_SECONDS
    ) -> None:
        self.beat = beat
        self.seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="safe_init heartbeat", daemon=True
        )

    def _run(self) -> None:
        while not self._stop.wait(self.seconds):
            try:
                self.beat()
            except LockLost:
                return  # the leading thread finds out at its next boundary
            except SafeInitError as exc:
                logger.debug("A sign of life was not recorded: %s", exc)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
