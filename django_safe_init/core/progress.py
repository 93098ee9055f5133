"""Progress inside the running step, as its own code reports it with `track()`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

from django_safe_init.core.text import printable

T = TypeVar("T")

#: The message must fit on one line together with the rest of the status.
_MAX_MESSAGE_LENGTH = 200


class ProgressUpdate(NamedTuple):
    """The progress of one loop or statement of the running step."""

    done: int
    total: int | None
    message: str


class OperationProgress(NamedTuple):
    """The operation of a migration that is running, if the migration has a journal."""

    #: From 1.
    number: int
    total: int
    name: str

    @classmethod
    def from_json(cls, text: object) -> OperationProgress | None:
        """Return the operation in a row, or None; any program may have written it."""
        try:
            number, total, name = json.loads(str(text))
        except (ValueError, TypeError):
            return None
        if not (isinstance(number, int) and isinstance(total, int)):
            return None
        return cls(number, total, printable(str(name))[:_MAX_MESSAGE_LENGTH])


class _Counter:
    """The items that one `track()` loop has finished."""

    __slots__ = ("done", "message", "total")

    def __init__(self, total: int | None, message: str) -> None:
        self.done = 0
        self.total = total
        self.message = message


class ProgressTracker:
    """The counters of the nested `track()` loops in the running step of one run.

    The step's thread only increments a counter, which costs next to nothing. The leader's
    heartbeat thread reads and publishes.
    """

    def __init__(self) -> None:
        #: The innermost loop's counter is the last.
        self._counters: list[_Counter] = []
        #: The progress that the database server reports for the running statement.
        self.statement: ProgressUpdate | None = None
        #: The running operation of the step; None without a journal.
        self.operation: OperationProgress | None = None
        self._published: tuple[Any, Any] | None = None
        self._highest_percent = 0

    def start(self, total: int | None, message: str) -> _Counter:
        """Add a counter for a loop that starts inside the present ones."""
        known = int(total) if total is not None and total > 0 else None
        counter = _Counter(known, printable(message)[:_MAX_MESSAGE_LENGTH])
        self._counters.append(counter)
        return counter

    def finish(self, counter: _Counter) -> None:
        """Remove the counter and those inside it, if it is still present."""
        if counter in self._counters:
            del self._counters[self._counters.index(counter) :]

    def clear(self) -> None:
        """Remove all progress when a step starts or ends."""
        self._counters.clear()
        self.statement = None
        self.operation = None

    def current(self) -> ProgressUpdate | None:
        """Return the progress of the running statement, else of the innermost loop."""
        if self.statement is not None:
            return self.statement
        # A slice: the step's thread may empty the list between a test and an index.
        for counter in self._counters[-1:]:
            return ProgressUpdate(counter.done, counter.total, counter.message)
        return None

    def publish(self) -> ProgressUpdate | None:
        """Return the current progress, and remember it as published."""
        current = self.current()
        self._published = current, self.operation
        return current

    def has_update(self) -> bool:
        """Return True if the current progress differs from the published one."""
        return (self.current(), self.operation) != (self._published or (None, None))

    def percent(self, done: int, total: int) -> int:
        """Return the percentage of a run that has finished `done` of `total` steps.

        The loops of the running step count as a fraction of one step. The result never
        decreases and never exceeds 99. A running statement does not count: it has phases, and
        their share of the step is unknown.
        """
        if total:
            percent = int((done + self._fraction()) * 100 / total)
            self._highest_percent = max(self._highest_percent, min(99, percent))
        return self._highest_percent

    def _fraction(self) -> float:
        """Return the finished fraction of the step, from the outermost loop inwards."""
        fraction, weight = 0.0, 1.0
        if self.operation is not None:
            weight = 1 / self.operation.total
            fraction = (self.operation.number - 1) * weight
        for counter in self._counters[:]:
            if counter.total is None:
                break
            fraction += weight * min(counter.done, counter.total) / counter.total
            weight /= counter.total
        return min(fraction, 1.0)


#: The tracker of the run for which this context works.
_current_tracker: ContextVar[ProgressTracker | None] = ContextVar(
    "_current_tracker", default=None
)


@contextmanager
def use_tracker(tracker: ProgressTracker) -> Iterator[None]:
    """Make `track` count on the tracker inside the block."""
    reset = _current_tracker.set(tracker)
    try:
        yield
    finally:
        _current_tracker.reset(reset)


def track(
    iterable: Iterable[T], total: int | None = None, message: str = ""
) -> Iterator[T]:
    """Iterate and show the progress in the run's status. For `RunPython` and steps, like tqdm.

    `total` defaults to the length of the iterable, if it has one, and is unknown otherwise.
    `message` names the items. Inside another `track` the status shows the inner one.

    An item costs well under a microsecond. The status shows it within about a second, and the
    leader counts as making progress. Outside of a run, `track` only iterates. The same is true
    in a thread that a migration starts, unless the thread runs in a copy of the context, as
    with `asyncio.to_thread` and asgiref.
    """
    tracker = _current_tracker.get()
    if tracker is None:
        yield from iterable
        return
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    counter = tracker.start(total, str(message))
    try:
        for counter.done, item in enumerate(iterable):
            yield item
    finally:
        tracker.finish(counter)
