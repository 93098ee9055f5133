"""Errors have an exit code, a default message and builtin base classes where they fit."""

from __future__ import annotations

import pytest

from django_safe_init import exceptions
from django_safe_init.exceptions import InitializationFailed, SafeInitError

CODES = {
    "SafeInitError": (1, "failed"),
    "InitializationFailed": (1, "failed"),
    "LeaderFailed": (1, "failed"),
    "UnfinishedMigration": (1, "failed"),
    "ValidationFailed": (1, "failed"),
    "ConfigurationError": (2, "usage"),
    "UnsafeConnection": (2, "unsafe"),
    "UnsupportedEngine": (2, "unsafe"),
    "MissingPrivilege": (2, "unsafe"),
    "WaitTimeout": (3, "timeout"),
    "DatabaseUnreachable": (4, "unreachable"),
    "LockLost": (5, "lock_lost"),
}


@pytest.mark.parametrize("name", CODES)
def test_error(name) -> None:
    """Every error is a SafeInitError with this exit code, result and default message."""
    error = getattr(exceptions, name)
    assert issubclass(error, SafeInitError)
    assert (error.exit_code, error.result) == CODES[name]
    assert str(error()) == error.__doc__
    assert str(error("because")) == "because"


def test_builtin_bases() -> None:
    """Code that catches a builtin error also catches the errors derived from it."""
    assert issubclass(exceptions.WaitTimeout, TimeoutError)
    assert issubclass(exceptions.DatabaseUnreachable, ConnectionError)


def test_attributes_of_a_failure() -> None:
    """`InitializationFailed` names the applied migrations, the failed one and the run."""
    error = InitializationFailed("x", applied=("a.1",), failed_migration="a.2", run=3)
    assert (error.applied, error.failed_migration, error.run) == (("a.1",), "a.2", 3)
