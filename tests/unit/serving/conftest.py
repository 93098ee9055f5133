"""Runs and readers for the tests of modules that read the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from django_safe_init.core.records import RunRow
from django_safe_init.serving.background import backoff
from django_safe_init.status import Status
from tests.unit.snapshots import ended


def failed(id_: int, seconds_ago: float, **changes: Any) -> RunRow:
    """Return a run that failed `seconds_ago` after three seconds."""
    ages = {"age_seconds": seconds_ago + 3, "duration_seconds": 3.0}
    return ended(id_, "failed", **{**ages, **changes})


class Reader:
    """A reader that returns the status and the runs of a test."""

    def __init__(self, sight: Status, runs: list[RunRow]) -> None:
        self.sight = sight
        self.runs = runs
        self.lost: Exception | None = None

    def history(self, count: int) -> list[RunRow]:
        if self.lost:
            raise self.lost
        return self.runs[:count]

    def close(self) -> None: ...


@pytest.fixture
def see(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Make the database show a status and runs; return the aliases that are read."""
    looked_at: list[str] = []

    def let(sight: Status | Exception, *runs: RunRow) -> list[str]:
        def open_reader(alias: str, *arguments: Any) -> Reader:
            looked_at.append(alias)
            if isinstance(sight, Exception):
                raise sight
            return Reader(sight, list(runs))

        monkeypatch.setattr(backoff, "open_reader", open_reader)
        monkeypatch.setattr(backoff, "read_status", lambda alias, reader: reader.sight)
        return looked_at

    return let
