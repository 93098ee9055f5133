"""How far the running step is, as its own code says it: `track()`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

from django_safe_init.core.text import printable

T = TypeVar("T")

#: More would not fit a line.
_LONGEST_MESSAGE = 200


class ProgressUpdate(NamedTuple):
    """How far a loop or a statement is that the running step is in."""

    done: int
    total: int | None
    message: str


class _Counter:
    __slots__ = ("done", "message", "total")

    def __init__(self, total: int | None, message: str) -> None:
        self.done = 0
        self.total = total
        self.message = message


class ProgressTracker:
    """The loops that the running step of one run is in, the innermost last.

    The step's thread counts, at next to no cost, and writes nothing; the leader's heartbeat reads
    and publishes.
    """

    def __init__(self) -> None:
        self._loops: list[_Counter] = []
        #: How far the server says that the statement is that runs just now.
        self.in_server: ProgressUpdate | None = None
        self._told: ProgressUpdate | None = None
        self._most = 0

    def enter(self, total: int | None, message: str) -> _Counter:
        """A loop begins."""
        known = int(total) if total is not None and total > 0 else None
        loop = _Counter(known, printable(message)[:_LONGEST_MESSAGE])
        self._loops.append(loop)
        return loop

    def leave(self, loop: _Counter) -> None:
        """It has ended, and so have those inside it."""
        if loop in self._loops:
            del self._loops[self._loops.index(loop) :]

    def clear(self) -> None:
        """The step has ended, or begins."""
        self._loops.clear()
        self.in_server = None

    def now(self) -> ProgressUpdate | None:
        """How far the running statement is, or else the innermost loop."""
        if self.in_server is not None:
            return self.in_server
        for loop in self._loops[-1:]:
            return ProgressUpdate(loop.done, loop.total, loop.message)
        return None

    def tell(self) -> ProgressUpdate | None:
        """The same, for somebody who publishes it."""
        self._told = self.now()
        return self._told

    def has_news(self) -> bool:
        """Whether something else is true than was told last."""
        return self.now() != self._told

    def percent(self, done: int, total: int) -> int:
        """Of a run, of whose steps so many are done, with the part of the running one.

        Never less than it was before, and never all of it. A statement counts for nothing here:
        it has phases, and nobody knows what part of the step it is.
        """
        if total:
            percent = int((done + self._part()) * 100 / total)
            self._most = max(self._most, min(99, percent))
        return self._most

    def _part(self) -> float:
        """What is done of the step: of the outermost loop, and of what is inside its item."""
        part, weight = 0.0, 1.0
        for loop in self._loops[:]:
            if loop.total is None:
                break
            part += weight * min(loop.done, loop.total) / loop.total
            weight /= loop.total
        return min(part, 1.0)


#: Those of the run that this thread, or the task it has come from, works for.
_current: ContextVar[ProgressTracker | None] = ContextVar("_current", default=None)


@contextmanager
def use_tracker(loops: ProgressTracker) -> Iterator[None]:
    """While entered, `track` counts for these."""
    token = _current.set(loops)
    try:
        yield
    finally:
        _current.reset(token)


def track(
    iterable: Iterable[T], total: int | None = None, message: str = ""
) -> Iterator[T]:
    """Iterate, and show in the run how far it is: for `RunPython` and steps, as tqdm does.

    `total` is the length if the iterable has one, else unknown unless given; `message` says what
    the items are. Inside another `track` the inner one shows, then the outer again. An item
    costs well under a microsecond, whoever watches sees it within about a second, and the leader
    counts as making progress. Outside of a run it only iterates; so it does in a thread that a
    migration starts, unless that runs in a copy of the context, as `asyncio.to_thread` and
    asgiref do it.
    """
    loops = _current.get()
    if loops is None:
        yield from iterable
        return
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    loop = loops.enter(total, str(message))
    try:
        for loop.done, item in enumerate(iterable):
            yield item
    finally:
        loops.leave(loop)
