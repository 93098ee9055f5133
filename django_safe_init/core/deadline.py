"""When waiting must end."""

from __future__ import annotations

import time

from django_safe_init.exceptions import ConfigurationError


def require_timeout(seconds: float | None) -> None:
    """Raise `ConfigurationError` unless one can wait that long."""
    if seconds is not None and not seconds >= 0:  # neither is "not a number"
        raise ConfigurationError(f"A time-out of {seconds:g} seconds is not possible.")


class Deadline:
    """How long all of it may take; `None` seconds for no limit."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def passed(self) -> bool:
        """Whether the time is over."""
        return self._end is not None and time.monotonic() >= self._end

    def clip(self, seconds: float) -> float:
        """`seconds`, or what is left if that is less."""
        if self._end is None:
            return seconds
        return max(0.0, min(seconds, self._end - time.monotonic()))
