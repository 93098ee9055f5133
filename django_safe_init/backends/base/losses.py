"""Notice that connections of the application were lost."""

from __future__ import annotations

from typing import Any


class LossDetector:
    """The lost connections of one alias, as far as the driver tells.

    A connection is lost if the server or the network ended it. A driver that does not tell
    reports none.
    """

    def add(self, raw: Any) -> None:
        """Observe a connection of the driver."""

    def pop(self) -> bool:
        """Return True if an observed connection was lost since the last call."""
        return False
