"""Several databases side by side, and what they print."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

from django_safe_init.core.signal_handling import Interrupted, interruptible
from django_safe_init.core.threads import InitializationThread

T = TypeVar("T")


def run_parallel(aliases: list[str], jobs: int, one: Callable[[str], T]) -> list[T]:
    """What `one` returns for each alias, in their order; at most `jobs` at a time.

    Each is called on a thread that has Django connections of its own. A signal ends all of
    them: `one` returns how each has ended. A second one, while they still clean up, is raised.
    """
    left = iter(aliases)
    ended: dict[str, T] = {}

    def work() -> None:
        while (alias := next(left, None)) is not None:
            ended[alias] = one(alias)

    with interruptible() as interruption:
        threads = [
            InitializationThread(work, interruption)
            for _ in range(min(jobs, len(aliases)))
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except Interrupted:
            interruption.cancel_and_join(threads)
            work()  # what no thread has begun reports that it was interrupted
    begun = [thread for thread in threads if thread.ident is not None]
    for thread in begun:
        thread.future.result()  # raises what `one` has not foreseen
    return [ended[alias] for alias in aliases]


class _PrefixedStream(io.TextIOBase):
    """Passes on whole lines, each with the name of its database: they come from several."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self._stream = stream
        self._label = label
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        # In one piece: another thread writes to the same stream.
        self._stream.write("".join(f"{self._label}: {line}\n" for line in lines))
        self._stream.flush()
        return len(text)

    def finish(self) -> None:
        """Pass on what is no whole line: an error has come in between."""
        if self._rest:
            self.write("\n")


@contextmanager
def prefixed_stream(stream: TextIO, label: str) -> Iterator[TextIO]:
    """A stream whose lines go to `stream` with the label before them."""
    marked = _PrefixedStream(stream, label)
    try:
        yield marked  # type: ignore[misc]  # typeshed: TextIOBase is no TextIO
    finally:
        marked.finish()
