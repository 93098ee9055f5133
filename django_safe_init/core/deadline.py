"""The time at which waiting must end."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from django_safe_init.exceptions import ConfigurationError

if TYPE_CHECKING:
    from django_safe_init.conf import Settings

#: The seconds before the second attempt to connect. Each further pause is twice as long.
_FIRST_PAUSE = 0.5


def check_timeout(seconds: float | None) -> None:
    """Raise `ConfigurationError` if `seconds` is negative or not a number."""
    if seconds is not None and not seconds >= 0:  # `seconds < 0` would accept NaN
        raise ConfigurationError(f"A time-out of {seconds:g} seconds is not possible.")


class Deadline:
    """A point in time `seconds` after its creation, or never if `seconds` is None."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def passed(self) -> bool:
        """Return True if the deadline has passed."""
        return self._end is not None and time.monotonic() >= self._end

    def clip(self, seconds: float) -> float:
        """Return `seconds`, or the time left until the deadline if that is shorter."""
        if self._end is None:
            return seconds
        return max(0.0, min(seconds, self._end - time.monotonic()))


def connect_pauses(settings: Settings) -> Iterator[float]:
    """Yield the seconds between `CONNECT_ATTEMPTS` attempts: exponential, with jitter."""
    for attempt in range(settings.connect_attempts - 1):
        pause = min(_FIRST_PAUSE * 2**attempt, settings.connect_max_wait)
        yield pause * random.uniform(0.75, 1.0)
