"""Built-in steps. Each call in an app's `init_steps.py` registers one.

Each function passes further keyword arguments to `init_step`. Steps that run again on a change
set `run` and `fingerprint` themselves.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core import management
from django.core.cache import caches
from django.core.cache.backends.db import BaseDatabaseCache

from django_safe_init.core.step import StepContext
from django_safe_init.core.step_registry import init_step, registry


def cache_table(name: str = "cache_table", **options: Any) -> None:
    """Create the tables of all database caches with Django's `createcachetable`.

    Runs again when the tables in `CACHES` change. Further keyword arguments are passed to
    `init_step`.
    """

    def create(context: StepContext) -> None:
        _call("createcachetable", context)

    _register(create, name, run="on_change", fingerprint=_cache_tables, **options)


def load_fixture(*fixtures: str, name: str | None = None, **options: Any) -> None:
    """Load the fixtures with Django's `loaddata`, once.

    The default `name` is `load_` and the names of the fixtures. Further keyword arguments are
    passed to `init_step`.
    """

    def load(context: StepContext) -> None:
        _call("loaddata", context, *fixtures)

    stem = "_".join(Path(each).stem for each in fixtures)
    _register(load, name or f"load_{stem}", **options)


def run_sql(path: str, name: str | None = None, **options: Any) -> None:
    """Run the SQL in a file of the app.

    `path` is relative to the folder of the app. Runs again when the file changes. The default
    `name` is `sql_` and the name of the file. Further keyword arguments are passed to
    `init_step`.
    """
    module = _caller()
    folder = apps.get_app_config(registry.app_label(module)).path
    file = Path(folder, path)

    def execute(context: StepContext) -> None:
        script = file.read_text("utf-8")
        with context.connection.cursor() as cursor:
            for statement in context.connection.ops.prepare_sql_script(script):
                cursor.execute(statement)

    def digest() -> str:
        return hashlib.sha256(file.read_bytes()).hexdigest()

    name = name or f"sql_{file.stem}"
    _register(execute, name, run="on_change", fingerprint=digest, **options)


def call_command(
    command: str,
    *arguments: str,
    options: Mapping[str, Any] | None = None,
    name: str | None = None,
    **step: Any,
) -> None:
    """Run a management command with these arguments and options, once.

    The default `name` is the name of the command. Further keyword arguments are passed to
    `init_step`.
    """

    def call(context: StepContext) -> None:
        management.call_command(command, *arguments, **(options or {}))

    _register(call, name or command, **step)


def _register(function: Any, name: str, **options: Any) -> None:
    function.__module__ = _caller()
    init_step(function, name=name, **options)


def _caller() -> str:
    """Return the name of the module that called this module."""
    frame = sys._getframe(1)
    while frame.f_globals["__name__"] == __name__:
        assert frame.f_back is not None  # another module called this one
        frame = frame.f_back
    return str(frame.f_globals["__name__"])


def _call(command: str, context: StepContext, *arguments: str) -> None:
    management.call_command(command, *arguments, database=context.alias, verbosity=0)


def _cache_tables() -> str:
    configured = (caches[alias] for alias in settings.CACHES)
    tables = [
        str(vars(cache)["_table"])
        for cache in configured
        if isinstance(cache, BaseDatabaseCache)
    ]
    return ",".join(sorted(tables))
