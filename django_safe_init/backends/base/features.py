"""Define the differences between engines, as feature flags."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BackendFeatures:
    """The differences between databases that code outside `backends` may query.

    The defaults describe an engine without a lock, which can only be read.
    """

    #: Dotted path of the `BaseBackend` subclass.
    backend: str = "django_safe_init.backends.generic.backend.GenericBackend"
    #: Processes can exclude each other, so one leads and the others follow.
    has_lock: bool = False
    #: Only one process can reach the database, so no other one must be excluded.
    is_private: bool = False
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
        """Return True if no two processes can initialize the database at the same time."""
        return self.has_lock or self.is_private
