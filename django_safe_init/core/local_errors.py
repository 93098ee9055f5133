"""Tell the errors of one process from the errors of the build.

Another process can succeed where this one has run out of a resource of its host, or can no longer
write its output. An error of the build meets every process.
"""

from __future__ import annotations

import codecs
import errno
import select
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

from django_safe_init.core.text import exception_chain

#: A resource of this process or its host is used up: disk space, files, memory, processes. The
#: database server reports its own shortage with an error of the driver.
_EXHAUSTED = frozenset(
    {
        errno.EAGAIN,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
    }
)
#: A write failed: the reader of a pipe has exited, a terminal is closed, or a descriptor is.
_UNWRITABLE = frozenset({errno.EBADF, errno.EIO, errno.EPIPE, errno.ESHUTDOWN})
#: The text of Python's `RuntimeError` for a host without a free thread.
_NO_THREAD = "can't start new thread"
_BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL


def is_local(error: BaseException) -> bool:
    """Return True if the error, or one that it was raised from, says nothing about the build.

    A migration may use pipes and files of its own. So an error that could stem from one of them
    is local only while an output of this process is unusable.
    """
    return is_output_lost(error) or any(map(_is_exhausted, exception_chain(error)))


def is_output_lost(error: BaseException) -> bool:
    """Return True if the error, or one that it was raised from, is a write to a broken output.

    Each process has outputs of its own. A shortage may be the build's fault: a migration can need
    more memory than any host has.
    """
    return any(map(_is_output, exception_chain(error)))


def _is_exhausted(error: BaseException) -> bool:
    if isinstance(error, RuntimeError):
        return str(error) == _NO_THREAD
    is_resource = isinstance(error, OSError) and error.errno in _EXHAUSTED
    return is_resource or isinstance(error, MemoryError)


def _is_output(error: BaseException) -> bool:
    if isinstance(error, UnicodeEncodeError):
        return any(_cannot_encode(stream, error) for stream in _streams())
    if isinstance(error, OSError):
        return error.errno in _UNWRITABLE and any(map(_is_broken, _descriptors()))
    if isinstance(error, ValueError):  # "I/O operation on closed file."
        return "closed file" in str(error) and any(each.closed for each in _streams())
    return False


def _streams() -> Iterator[TextIO]:
    """Yield the outputs of this process. One that was closed before its start is None."""
    yield from (each for each in (sys.stdout, sys.stderr) if each is not None)


def _descriptors() -> set[int]:
    """Return the file descriptors of the outputs, also of replaced ones."""
    found = {1, 2}
    for stream in _streams():
        with suppress(OSError, ValueError):  # it has none, or is closed
            found.add(stream.fileno())
    return found


def _is_broken(descriptor: int) -> bool:
    """Return True if a write to the descriptor fails: nothing reads it, or it is closed."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & _BROKEN for _, event in poll.poll(0))


def _cannot_encode(stream: TextIO, error: UnicodeEncodeError) -> bool:
    """Return True if the stream has the error's encoding, which lacks most characters."""
    name = getattr(stream, "encoding", None) or "utf-8"
    known = codecs.lookup(name).name
    return known != "utf-8" and known == codecs.lookup(error.encoding).name
