"""The time for which this process has run."""

from __future__ import annotations

import os

import pytest

from django_safe_init.core import process
from django_safe_init.core.process import seconds_since_start


def test_seconds_since_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time counts from the first import, and from the fork in a forked process."""
    before = seconds_since_start()
    assert before > 0
    assert seconds_since_start() >= before
    monkeypatch.setattr(process, "_started", process._started - 3600)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"new" if seconds_since_start() < 1800 else b"old")
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == b"new"
    assert seconds_since_start() > 3600
