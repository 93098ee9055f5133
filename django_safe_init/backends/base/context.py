"""Define the parameters of one use of one database."""

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
    """The parameters of one use of one database."""

    alias: str
    build: Build
    settings: Settings
    #: Limits all waiting together.
    deadline: Deadline
    #: Receives a line for the person who waits, for example the reason for a wait.
    report: Callable[[str], None] = logger.info

    @property
    def direct(self) -> Mapping[str, Any] | None:
        """Return the settings in `DIRECT` that reach the server without a pooler, or None."""
        return self.settings.direct.get(self.alias)
