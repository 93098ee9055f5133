"""Errors of one process, and errors of the build."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from django_safe_init.core.local_errors import is_local
from django_safe_init.exceptions import DatabaseUnreachable, SafeInitError


@contextmanager
def broken_pipe(monkeypatch) -> Iterator[None]:
    """Make standard output a pipe without a reader inside the block."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w")  # noqa: SIM115  (its end raises the error again)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        yield
    with suppress(BrokenPipeError):
        stream.close()


def caught(function) -> BaseException:
    """Return the error that the function raises."""
    with pytest.raises(BaseException) as info:  # noqa: PT011  (any error)
        function()
    return info.value


@pytest.mark.parametrize(
    "code",
    ["ENOSPC", "EDQUOT", "EMFILE", "ENFILE", "ENOMEM", "EFBIG", "EAGAIN"],
)
def test_exhausted(code: str) -> None:
    """A resource of the host that is used up is local."""
    assert is_local(OSError(getattr(errno, code), "no more"))
    assert is_local(MemoryError())
    assert is_local(RuntimeError("can't start new thread"))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no price"),
        RuntimeError("no price"),
        ValueError("I/O operation on closed file."),
        BrokenPipeError(errno.EPIPE, "of a socket"),
        OSError(errno.EIO, "of a disk"),
        OSError("without a number"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        ConnectionRefusedError(errno.ECONNREFUSED, "no such server"),
        DatabaseUnreachable("no"),
        SafeInitError("no"),
        SystemExit(1),
    ],
    ids=repr,
)
def test_errors_of_the_build(error: BaseException) -> None:
    """An error of a migration, also of its own pipes and files, belongs to the build."""
    assert not is_local(error)


def test_the_output_has_no_reader(monkeypatch) -> None:
    """A broken pipe is local if it is an output of this process, also as a cause."""
    with broken_pipe(monkeypatch):
        error = caught(lambda: print("x", flush=True))
        assert isinstance(error, BrokenPipeError)
        assert is_local(error)
        assert is_local(caught(lambda: _raise_from(error)))
        assert not is_local(ValueError("no price"))
        assert not is_local(ConnectionResetError(errno.ECONNRESET, "of a socket"))
    assert not is_local(error)


def _raise_from(error: BaseException) -> None:
    raise LookupError("no column") from error


def test_the_output_is_closed(monkeypatch) -> None:
    """An output that was closed is local."""
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    assert is_local(caught(lambda: print("x", file=stream)))


def test_without_outputs(monkeypatch) -> None:
    """A process may have no output at all."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert not is_local(ValueError("I/O operation on closed file."))
    assert not is_local(BrokenPipeError(errno.EPIPE, "of a socket"))


def test_the_output_lacks_a_character(monkeypatch) -> None:
    """A character that the output's encoding lacks is local, unless all processes lack it."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert is_local(caught(lambda: print("é")))
    assert not is_local(caught(lambda: "語".encode("latin-1")))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert not is_local(caught(lambda: print("\udc80")))
    assert not is_local(caught(lambda: "é".encode("ascii")))
