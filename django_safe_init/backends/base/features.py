"""Define the differences between engines, as feature flags."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BackendFeatures:
    """The differences between databases that code outside `backends` may query.

    The defaults describe an engine without a backend.
    """

    #: Dotted path of the `BaseBackend` subclass; empty if the engine has none.
    backend: str = ""
    #: Processes can exclude each other, so one leads and the others follow.
    has_lock: bool = False
    #: The server has roles, databases, extensions and grants.
    supports_privileged_steps: bool = False
    #: The reason why this package cannot use the engine as it is installed, and the remedy, as
    #: sentences. Empty without such a reason.
    obstacle: str = ""
    remedy: str = ""
    #: False if Django cannot load the engine either.
    is_loaded: bool = True

    @property
    def is_supported(self) -> bool:
        """Return True if this package has a backend for the database."""
        return bool(self.backend)
