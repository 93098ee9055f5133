"""Work that must happen once per database and is no migration.

Steps live in an app's `init_steps.py`, which is found like `admin.py`:

    from django_safe_init import init_step, steps

    @init_step(after=["cache_table"])
    def seed_currencies(context):
        ...

    steps.cache_table()
"""

from __future__ import annotations

from django_safe_init.steps.ready_made import (
    cache_table,
    call_command,
    load_fixture,
    run_sql,
)
from django_safe_init.steps.registry import init_step
from django_safe_init.steps.step import PrivilegedContext, StepContext

__all__ = [
    "PrivilegedContext",
    "StepContext",
    "cache_table",
    "call_command",
    "init_step",
    "load_fixture",
    "run_sql",
]
