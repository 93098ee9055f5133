"""Exactly one replica initializes the database; the others wait for it and go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django_safe_init.version import __version__

if TYPE_CHECKING:
    from django_safe_init.core.progress import track
    from django_safe_init.core.states import State
    from django_safe_init.core.step_registry import init_step
    from django_safe_init.exceptions import (
        ConfigurationError,
        DatabaseUnreachable,
        DDLLockTimeout,
        InitializationFailed,
        LeaderFailed,
        LockLost,
        LoginRefused,
        MissingPrivilege,
        ReadOnlyPool,
        SafeInitError,
        UnfinishedMigration,
        UnsafeConnection,
        UnsupportedEngine,
        ValidationFailed,
        WaitTimeout,
    )
    from django_safe_init.initialization.api import (
        aget_status,
        ainitialize,
        initialize,
    )
    from django_safe_init.initialization.types import Outcome
    from django_safe_init.pools import using_pool
    from django_safe_init.status import Status, get_status, is_ready

#: Where each public name lives. They are imported when first used: this package is itself
#: imported by `INSTALLED_APPS`, before Django is set up.
_HOMES = {
    "initialization.api": ("aget_status", "ainitialize", "initialize"),
    "pools": ("using_pool",),
    "core.progress": ("track",),
    "initialization.types": ("Outcome",),
    "core.states": ("State",),
    "status": ("Status", "get_status", "is_ready"),
    "core.step_registry": ("init_step",),
    "exceptions": (
        "ConfigurationError",
        "DDLLockTimeout",
        "DatabaseUnreachable",
        "InitializationFailed",
        "LeaderFailed",
        "LockLost",
        "LoginRefused",
        "MissingPrivilege",
        "ReadOnlyPool",
        "SafeInitError",
        "UnfinishedMigration",
        "UnsafeConnection",
        "UnsupportedEngine",
        "ValidationFailed",
        "WaitTimeout",
    ),
}

__all__ = [
    "ConfigurationError",
    "DDLLockTimeout",
    "DatabaseUnreachable",
    "InitializationFailed",
    "LeaderFailed",
    "LockLost",
    "LoginRefused",
    "MissingPrivilege",
    "Outcome",
    "ReadOnlyPool",
    "SafeInitError",
    "State",
    "Status",
    "UnfinishedMigration",
    "UnsafeConnection",
    "UnsupportedEngine",
    "ValidationFailed",
    "WaitTimeout",
    "__version__",
    "aget_status",
    "ainitialize",
    "get_status",
    "init_step",
    "initialize",
    "is_ready",
    "track",
    "using_pool",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
