"""Public API: initialize a database once per fleet, ask for its status, report progress.

No other module of the package imports a name from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from django_safe_init.version import __version__ as __version__

if TYPE_CHECKING:  # a test compares these imports with _HOMES
    from django_safe_init.core.batches import for_each_batch as for_each_batch
    from django_safe_init.core.progress import track as track
    from django_safe_init.core.records import RunRow as RunRow
    from django_safe_init.core.schemas import FailedSchemas as FailedSchemas
    from django_safe_init.core.schemas import SchemaFailure as SchemaFailure
    from django_safe_init.core.schemas import SchemaProgress as SchemaProgress
    from django_safe_init.core.states import State as State
    from django_safe_init.core.step_registry import init_step as init_step
    from django_safe_init.exceptions import ConfigurationError as ConfigurationError
    from django_safe_init.exceptions import DatabaseUnreachable as DatabaseUnreachable
    from django_safe_init.exceptions import DDLLockTimeout as DDLLockTimeout
    from django_safe_init.exceptions import InitializationFailed as InitializationFailed
    from django_safe_init.exceptions import LeaderFailed as LeaderFailed
    from django_safe_init.exceptions import LockLost as LockLost
    from django_safe_init.exceptions import LoginRefused as LoginRefused
    from django_safe_init.exceptions import MissingPrivilege as MissingPrivilege
    from django_safe_init.exceptions import ReadOnlyPool as ReadOnlyPool
    from django_safe_init.exceptions import ReadOnlyServer as ReadOnlyServer
    from django_safe_init.exceptions import SafeInitError as SafeInitError
    from django_safe_init.exceptions import UnfinishedMigration as UnfinishedMigration
    from django_safe_init.exceptions import UnsafeConnection as UnsafeConnection
    from django_safe_init.exceptions import UnsupportedEngine as UnsupportedEngine
    from django_safe_init.exceptions import ValidationFailed as ValidationFailed
    from django_safe_init.exceptions import WaitTimeout as WaitTimeout
    from django_safe_init.initialization.api import aget_status as aget_status
    from django_safe_init.initialization.api import ainitialize as ainitialize
    from django_safe_init.initialization.api import initialize as initialize
    from django_safe_init.initialization.types import Outcome as Outcome
    from django_safe_init.pools import using_pool as using_pool
    from django_safe_init.signals import state_changed as state_changed
    from django_safe_init.status import Status as Status
    from django_safe_init.status import get_status as get_status
    from django_safe_init.status import is_ready as is_ready

#: The module of each public name. A name is imported when it is first used, because
#: `INSTALLED_APPS` imports this package before Django is set up.
_HOMES = {
    "ConfigurationError": "exceptions",
    "DDLLockTimeout": "exceptions",
    "DatabaseUnreachable": "exceptions",
    "FailedSchemas": "core.schemas",
    "InitializationFailed": "exceptions",
    "LeaderFailed": "exceptions",
    "LockLost": "exceptions",
    "LoginRefused": "exceptions",
    "MissingPrivilege": "exceptions",
    "Outcome": "initialization.types",
    "ReadOnlyPool": "exceptions",
    "ReadOnlyServer": "exceptions",
    "RunRow": "core.records",
    "SafeInitError": "exceptions",
    "SchemaFailure": "core.schemas",
    "SchemaProgress": "core.schemas",
    "State": "core.states",
    "Status": "status",
    "UnfinishedMigration": "exceptions",
    "UnsafeConnection": "exceptions",
    "UnsupportedEngine": "exceptions",
    "ValidationFailed": "exceptions",
    "WaitTimeout": "exceptions",
    "aget_status": "initialization.api",
    "ainitialize": "initialization.api",
    "for_each_batch": "core.batches",
    "get_status": "status",
    "init_step": "core.step_registry",
    "initialize": "initialization.api",
    "is_ready": "status",
    "state_changed": "signals",
    "track": "core.progress",
    "using_pool": "pools",
}

__all__ = sorted(["__version__", *_HOMES])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
