"""Let several forked processes migrate schemas, or this process."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, NamedTuple

from django.db import connections

from django_safe_init.backends.base.schema_session import SchemaResult
from django_safe_init.backends.tenants import Tenant
from django_safe_init.core.cancellation import check as check_cancellation
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import LockLost, SafeInitError
from django_safe_init.initialization.schemas.worker import SchemaWorker

#: Makes a worker, in the process that uses it.
MakeWorker = Callable[[], SchemaWorker]

#: The seconds in which a process must have written what it has buffered.
_SECONDS_TO_END = 5.0
#: The longest wait for a result, so that a signal is noticed.
_POLL_SECONDS = 0.5

#: Connections of the parent's process: not to be closed here, and psycopg warns of one that is
#: freed.
_inherited: list[Any] = []


class WorkerDied(NamedTuple):
    """A worker's process ended while it migrated the schema."""

    tenant: Tenant
    exit_code: int | None


class Pool(ABC):
    """Workers that take one schema each at a time."""

    #: The number of schemas that can be worked on at once.
    size: int

    @abstractmethod
    def has_room(self) -> bool:
        """Return True if a worker is free."""

    @abstractmethod
    def submit(self, tenant: Tenant) -> None:
        """Give the schema to a free worker."""

    @abstractmethod
    def next(self) -> tuple[Tenant, SchemaResult | WorkerDied]:
        """Return the next result. Raises `LockLost` if the leader of a worker does not lead."""

    @property
    @abstractmethod
    def busy(self) -> int:
        """The number of schemas that are being worked on."""


class SerialPool(Pool):
    """This process, on the leader's own connections."""

    size = 1

    def __init__(self, worker: SchemaWorker) -> None:
        self._worker = worker
        self._tenant: Tenant | None = None

    def has_room(self) -> bool:
        return self._tenant is None

    def submit(self, tenant: Tenant) -> None:
        self._tenant = tenant

    def next(self) -> tuple[Tenant, SchemaResult | WorkerDied]:
        tenant, self._tenant = self._tenant, None
        assert tenant is not None
        check_cancellation()
        return tenant, self._worker.work(tenant)

    @property
    def busy(self) -> int:
        return int(self._tenant is not None)


class _Child:
    """A forked process with a worker."""

    def __init__(self, make_worker: MakeWorker, inherited: list[Connection]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, far = context.Pipe()
        self.tenant: Tenant | None = None
        self.process = context.Process(
            target=_run_child,
            args=(make_worker, far, [*inherited, self.pipe]),
            name="safe_init schemas",
        )
        with warnings.catch_warnings():
            # No other thread of the leader works while it forks.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        far.close()

    def finish(self) -> None:
        """Let the process end, which writes what it has buffered."""
        self.pipe.close()
        self.process.join(_SECONDS_TO_END)

    def end(self) -> None:
        """End the process at once. The server rolls back what it was doing."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.process.close()


class ForkedPool(Pool):
    """Forked processes, which end with this one. A context manager."""

    def __init__(self, count: int, make_worker: MakeWorker) -> None:
        self.size = count
        self._make_worker = make_worker
        self._children: list[_Child] = []

    def __enter__(self) -> ForkedPool:
        try:
            for _ in range(self.size):
                self._fork()
        except BaseException as exc:
            self.__exit__(type(exc), exc, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if error is None:
            for child in self._children:
                child.finish()
        for child in self._children:
            child.end()
        self._children.clear()

    def _fork(self) -> None:
        pipes = [child.pipe for child in self._children]
        self._children.append(_Child(self._make_worker, pipes))

    def has_room(self) -> bool:
        return any(child.tenant is None for child in self._children)

    @property
    def busy(self) -> int:
        return sum(child.tenant is not None for child in self._children)

    def submit(self, tenant: Tenant) -> None:
        child = next(child for child in self._children if child.tenant is None)
        child.tenant = tenant
        with suppress(OSError):  # it has died: `next` notices that
            child.pipe.send(tenant)

    def next(self) -> tuple[Tenant, SchemaResult | WorkerDied]:
        while True:
            check_cancellation()
            working = {
                child.pipe: child
                for child in self._children
                if child.tenant is not None
            }
            for pipe in wait(list(working), _POLL_SECONDS):
                assert isinstance(pipe, Connection)
                return self._receive(working[pipe])

    def _receive(self, child: _Child) -> tuple[Tenant, SchemaResult | WorkerDied]:
        tenant, child.tenant = child.tenant, None
        assert tenant is not None
        try:
            answer: Any = child.pipe.recv()
        except (EOFError, OSError):
            child.process.join()
            died = WorkerDied(tenant, child.process.exitcode)
            self._children.remove(child)
            child.end()
            self._fork()
            return tenant, died
        if isinstance(answer, BaseException):
            raise answer
        return tenant, answer


def _run_child(
    make_worker: MakeWorker, pipe: Connection, inherited: list[Connection]
) -> None:
    """Work on schemas until the parent closes the pipe, or ends."""
    for each in inherited:
        each.close()  # else the end of the parent would go unnoticed
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _watch_parent()
    for wrapper in connections.all(initialized_only=True):
        _inherited.append(wrapper.connection)
        wrapper.connection = None
    try:
        worker = make_worker()
        with ExitStack() as stack:
            stack.callback(worker.connections.close)
            stack.enter_context(worker.connections.connections())
            while True:
                tenant: Tenant = pipe.recv()
                pipe.send(_answer(worker, tenant))
    except (EOFError, OSError):
        return
    except SafeInitError as exc:
        with suppress(OSError):
            pipe.recv()
            pipe.send(LockLost(one_line(exc)))


def _answer(worker: SchemaWorker, tenant: Tenant) -> SchemaResult | LockLost:
    try:
        return worker.work(tenant)
    except LockLost as exc:
        return LockLost(one_line(exc))


def _watch_parent() -> None:
    """End this process as soon as its parent has ended, also while a statement runs."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        sys.stdout.flush()
        os._exit(1)

    threading.Thread(target=watch, name="safe_init parent", daemon=True).start()


@contextmanager
def _frozen_heap() -> Iterator[None]:
    """Let the collector pass over all that was loaded before.

    The models that each migration with Python gets are garbage after it, in cycles.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def opened_pool(
    jobs: int, make_worker: Callable[[bool], SchemaWorker]
) -> Iterator[Pool]:
    """Open a pool; `make_worker` is told if it is called in a forked process."""
    if jobs == 1:
        worker = make_worker(False)
        with worker.connections.connections(), _frozen_heap():
            yield SerialPool(worker)
        return
    with _frozen_heap(), ForkedPool(jobs, lambda: make_worker(True)) as pool:
        yield pool
