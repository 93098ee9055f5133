"""Work that must happen once per database and is no migration.

Steps live in an app's `init_steps.py`, which is found like `admin.py`:

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
    """Import it now: a start that has no steps should not pay for the ready-made ones."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "core.step" if name.endswith("Context") else "steps.builtin"
    return getattr(import_module(f"django_safe_init.{home}"), name)
