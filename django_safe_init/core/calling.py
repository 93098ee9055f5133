"""Calling what a project has registered, whether it is written with `async` or not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync


def call(function: Callable[[Any], Any], context: Any) -> Any:
    """What the function returns; if that is to be awaited, what comes of it."""
    result = function(context)
    if not inspect.isawaitable(result):
        return result

    async def value() -> Any:
        return await result

    return async_to_sync(value)()
