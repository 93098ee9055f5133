"""Carry what a backend needs to know about one use of one database."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django_safe_init.conf import Settings
from django_safe_init.core.build import Build
from django_safe_init.core.deadline import Deadline

logger = logging.getLogger("django_safe_init")


@dataclass(frozen=True)
class Context:
    """The database, the expected build, and the limits of all waiting."""

    alias: str
    build: Build
    settings: Settings
    #: The end of all waiting.
    deadline: Deadline
    #: Takes a line for the person who waits, for example the reason of a wait.
    report: Callable[[str], None] = logger.info

    @property
    def direct(self) -> Mapping[str, Any] | None:
        """The settings of `DIRECT` that reach the server without a pooler, if there are any."""
        return self.settings.direct.get(self.alias)
