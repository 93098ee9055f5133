"""Notice that psycopg's connections of the application were lost."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import psycopg
from psycopg.pq import ConnStatus

from django_safe_init.backends.base.losses import LossDetector


class PostgresLossDetector(LossDetector):
    """The lost connections of one alias.

    It keeps no connection alive. A connection is checked when `pop` is called, and when the
    application has dropped it. Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._observed: weakref.WeakKeyDictionary[Any, weakref.finalize[Any, Any]] = (
            weakref.WeakKeyDictionary()
        )
        self._lost = False
        self._lock = threading.Lock()

    def add(self, raw: Any) -> None:
        if isinstance(raw, psycopg.Connection):
            dropped = weakref.finalize(raw, self._note, raw.pgconn)
            dropped.atexit = False
            with self._lock:
                self._observed[raw] = dropped

    def _note(self, pgconn: Any) -> None:
        """Note a dropped connection as lost unless it was closed: closing frees the pointer."""
        is_closed = pgconn.pgconn_ptr is None
        self._lost |= pgconn.status == ConnStatus.BAD and not is_closed

    def pop(self) -> bool:
        with self._lock:
            for raw, dropped in list(self._observed.items()):
                if raw.closed:
                    self._lost |= raw.broken
                    dropped.detach()
                    del self._observed[raw]
            lost, self._lost = self._lost, False
            return lost
