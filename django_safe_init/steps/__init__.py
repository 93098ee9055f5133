"""Run work once per database that is not a migration: the built-in steps.

May use `core` and its registry. Must not touch a database at import time.

Register steps in an app's `init_steps.py`, which is imported as Django imports `admin.py`:

    from django_safe_init import init_step, steps

    @init_step(after=["cache_table"])
    def seed_currencies(context):
        ...

    steps.cache_table()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_safe_init.core.step import PrivilegedContext, StepContext
    from django_safe_init.steps.builtin import (
        cache_table,
        call_command,
        load_fixture,
        run_sql,
    )

__all__ = [
    "PrivilegedContext",
    "StepContext",
    "cache_table",
    "call_command",
    "load_fixture",
    "run_sql",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, to keep a start without built-in steps fast."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "core.step" if name.endswith("Context") else "steps.builtin"
    return getattr(import_module(f"django_safe_init.{home}"), name)
