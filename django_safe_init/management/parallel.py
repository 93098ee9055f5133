"""Parallel work on several databases, and prefixes for its output."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

from django_safe_init.core.signal_handling import Interrupted, interruptible
from django_safe_init.core.threads import InitializationThread

T = TypeVar("T")


def run_parallel(
    aliases: list[str], jobs: int, function: Callable[[str], T]
) -> list[T]:
    """Call `function` for each alias, at most `jobs` at a time; return the results in order.

    Each thread has separate Django connections. A signal cancels all calls, and `function`
    returns how each ended. A second signal during the cleanup is raised.
    """
    remaining = iter(aliases)
    results: dict[str, T] = {}

    def work() -> None:
        while (alias := next(remaining, None)) is not None:
            results[alias] = function(alias)

    with interruptible() as token:
        threads = [
            InitializationThread(work, token) for _ in range(min(jobs, len(aliases)))
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except Interrupted:
            token.cancel_and_join(threads)
            work()  # the aliases that no thread began report the interruption
    started = [thread for thread in threads if thread.ident is not None]
    for thread in started:
        thread.future.result()  # raises an error that `function` did not catch
    return [results[alias] for alias in aliases]


class _PrefixedStream(io.TextIOBase):
    """Stream that passes on whole lines, each with its prefix.

    Threads write to the same stream, so each line must tell its database.
    """

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self._stream = stream
        self._prefix = prefix
        self._partial_line = ""

    def write(self, text: str) -> int:
        *lines, self._partial_line = (self._partial_line + text).split("\n")
        # One write for all lines, because other threads write to the same stream.
        self._stream.write("".join(f"{self._prefix}: {line}\n" for line in lines))
        self._stream.flush()
        return len(text)

    def finish(self) -> None:
        """Pass on a line that an error cut off before its end."""
        if self._partial_line:
            self.write("\n")


@contextmanager
def prefixed_stream(stream: TextIO, prefix: str) -> Iterator[TextIO]:
    """Yield a stream that writes each line to `stream`, after the prefix."""
    prefixed = _PrefixedStream(stream, prefix)
    try:
        yield prefixed  # type: ignore[misc]  # typeshed: TextIOBase is no TextIO
    finally:
        prefixed.finish()
