"""Provide the Python API: `initialize`, and its versions for an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from django_safe_init.core.cancellation import CancellationToken
from django_safe_init.core.threads import InitializationThread
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.types import (
    InitializationOptions,
    MigrateTask,
    Outcome,
)
from django_safe_init.status import Status, get_status

T = TypeVar("T")


class Cancelled(KeyboardInterrupt):
    """The task that awaited the initialization was cancelled."""


def initialize(
    database: str = "default", *, mode: str | None = None, timeout: float | None = None
) -> Outcome:
    """Initialize the database, or wait until another process has, as `safe_migrate` does.

    `mode` is "self", "external" or "off" (None: the setting `MODE`). `timeout` is the limit of
    all waiting in seconds (None: the setting `MAX_WAIT`). Prints nothing and installs no signal
    handler. Returns when this build is ready, and raises a `SafeInitError` otherwise:
    `InitializationFailed`, `LeaderFailed`, `WaitTimeout`, `DatabaseUnreachable`, `LockLost`,
    `UnsafeConnection` or `ConfigurationError`.

    Call it before a process serves requests: while it leads, new connections to the alias, of
    this thread and of threads that start later, belong to the run.
    """
    task = MigrateTask(
        migrate=lambda: run_migrate(database),
        command="initialize",
        # An error tracker drops the second report of an error that the caller does not catch.
        error_to_log=lambda error, cause: error,
    )
    options = InitializationOptions(task, database, mode=mode, timeout=timeout)
    return Initializer(options).run()


async def ainitialize(
    database: str = "default", *, mode: str | None = None, timeout: float | None = None
) -> Outcome:
    """Initialize the database without blocking the event loop; see `initialize`.

    Each call runs in a new thread, neither asgiref's thread for sync code nor a pool's, so ten
    calls under `asyncio.gather` wait side by side. The thread sees the context variables, and
    closes its database connections at its end.

    A cancelled task leaves nothing behind. Before `CancelledError` is raised, the running
    statement is cancelled, the run is closed as interrupted, the lock is free and the thread has
    ended. Two things cannot be interrupted and delay that: an attempt to connect
    (`CONNECT_TIMEOUT` at most), and Python code of a migration until its next query. A migration
    that makes no further query finishes and is not recorded: an atomic one is rolled back, a
    non-atomic one counts as unfinished. In the mode "off" every migration finishes.
    """
    return await _on_own_thread(
        partial(initialize, database, mode=mode, timeout=timeout)
    )


async def aget_status(database: str = "default") -> Status:
    """Return the status without blocking the event loop; see `get_status`."""
    return await _on_own_thread(partial(get_status, database))


async def _on_own_thread(call: Callable[[], T]) -> T:
    token = CancellationToken()
    thread, outcome = _start(call, token)
    try:
        await asyncio.wait([outcome])  # unlike `await`, it never cancels the future
    except asyncio.CancelledError:
        token.request_cancel(Cancelled)
        # Cancelling a statement opens a connection, which would block the loop's thread.
        helper, ended = _start(
            partial(token.cancel_and_join, [thread]), CancellationToken()
        )
        await _wait_until_done(ended)
        await _wait_until_done(outcome)
        helper.join()  # it ends at once
        raise
    thread.join()
    return outcome.result()


def _start(
    call: Callable[[], T], token: CancellationToken
) -> tuple[InitializationThread[T], asyncio.Future[T]]:
    thread = InitializationThread(call, token)
    thread.start()
    return thread, asyncio.wrap_future(thread.future)


async def _wait_until_done(future: asyncio.Future[Any]) -> None:
    """Wait for the future, however often this task is cancelled."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    future.exception()  # asyncio warns about an exception that is never retrieved
