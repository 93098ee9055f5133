"""Runs and readers for the tests of modules that read the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from django_safe_init.core.records import RunRow
from django_safe_init.serving.background import backoff
from django_safe_init.status import Status
from tests.unit.snapshots import ended_run


def failed(id_: int, seconds_ago: float, **changes: Any) -> RunRow:
    """Return a run that failed `seconds_ago` after three seconds."""
    ages = {"age_seconds": seconds_ago + 3, "duration_seconds": 3.0}
    return ended_run(id_, "failed", **{**ages, **changes})


class Reader:
    """A reader that returns the status and the runs of a test."""

    def __init__(self, status: Status, runs: list[RunRow]) -> None:
        self.status = status
        self.runs = runs
        self.lost: Exception | None = None

    def history(self, count: int) -> list[RunRow]:
        if self.lost:
            raise self.lost
        return self.runs[:count]

    def close(self) -> None: ...


@pytest.fixture
def set_database(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Make the database show a status and runs; return the aliases that are read."""
    databases_read: list[str] = []

    def set_to(found: Status | Exception, *runs: RunRow) -> list[str]:
        def open_reader(alias: str, *arguments: Any) -> Reader:
            databases_read.append(alias)
            if isinstance(found, Exception):
                raise found
            return Reader(found, list(runs))

        monkeypatch.setattr(backoff, "open_reader", open_reader)
        monkeypatch.setattr(backoff, "read_status", lambda alias, reader: reader.status)
        return databases_read

    return set_to
