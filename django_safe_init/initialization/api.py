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
    """The task that wanted this was cancelled."""


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
    task = MigrateTask(migrate=lambda: run_migrate(database), command="initialize")
    options = InitializationOptions(task, database, mode=mode, timeout=timeout)
    return Initializer(options).run()


async def ainitialize(
    database: str = "default", *, mode: str | None = None, timeout: float | None = None
) -> Outcome:
    """`initialize` for an event loop, which goes on meanwhile.

    Each call is an initializer on a thread of its own, neither asgiref's thread for sync code
    nor one of a pool: ten under `asyncio.gather` wait side by side. The thread sees the context
    variables, and its database connections are closed when it ends.

    A cancelled task leaves nothing behind. The running statement is cancelled, the run is closed
    as interrupted, the lock is free and the thread has ended before `CancelledError` is
    raised. What cannot be interrupted is waited for: an attempt to connect (`CONNECT_TIMEOUT`
    at most), and a migration in Python code until its next query. A migration that makes no
    further query ends first, and is not recorded then: an atomic one is rolled back, a
    non-atomic one counts as unfinished. In the mode "off" each migration ends first.
    """
    return await _on_own_thread(
        partial(initialize, database, mode=mode, timeout=timeout)
    )


async def aget_status(database: str = "default") -> Status:
    """`get_status` for an event loop, on a thread of its own."""
    return await _on_own_thread(partial(get_status, database))


async def _on_own_thread(call: Callable[[], T]) -> T:
    interruption = CancellationToken()
    thread, outcome = _start(call, interruption)
    try:
        await asyncio.wait([outcome])  # which never cancels what it waits for
    except asyncio.CancelledError:
        interruption.request_cancel(Cancelled)
        # Cancelling a statement is a connection to the server: nothing for the loop's thread.
        helper, ended = _start(
            partial(interruption.cancel_and_join, [thread]), CancellationToken()
        )
        await _whatever_happens(ended)
        await _whatever_happens(outcome)
        helper.join()  # it has nothing left to do
        raise
    thread.join()
    return outcome.result()


def _start(
    call: Callable[[], T], interruption: CancellationToken
) -> tuple[InitializationThread[T], asyncio.Future[T]]:
    thread = InitializationThread(call, interruption)
    thread.start()
    return thread, asyncio.wrap_future(thread.future)


async def _whatever_happens(future: asyncio.Future[Any]) -> None:
    """Wait for it, however often this task is cancelled meanwhile."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    future.exception()  # asyncio complains about one that nobody has looked at
