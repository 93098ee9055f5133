"""Hold the status tables and the leader of each database in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from django.db import connections

if TYPE_CHECKING:
    from tests.fake_backend.lock import FakeLock

Row = dict[str, Any]


@dataclass
class FakeServer:
    """The tables and the leader of one database, which its processes share."""

    #: The rows of both tables by id; None before their creation.
    runs: dict[int, Row] | None = None
    steps: list[Row] = field(default_factory=list)
    #: A migration locks the tables.
    tables_are_locked: bool = False
    #: The lock of the process that leads.
    leader: FakeLock | None = None
    #: Close the connections of the runs, which outlive a leader that died.
    workers: list[Callable[[], None]] = field(default_factory=list)
    #: Guards everything above.
    guard: threading.RLock = field(default_factory=threading.RLock)

    def runs_of(self, lock_key: str) -> list[Row]:
        """Return the runs of the lock key, newest first."""
        runs = (self.runs or {}).values()
        return [run for run in reversed(runs) if run["lock_key"] == lock_key]

    def steps_of(self, lock_key: str) -> list[Row]:
        """Return the steps of the lock key's runs, newest first."""
        runs = {run["id"] for run in self.runs_of(lock_key)}
        return [step for step in reversed(self.steps) if step["run_id"] in runs]


_servers: dict[str, FakeServer] = {}


def server_of(alias: str) -> FakeServer:
    """Return the server of the database that the alias names."""
    name = str(connections.settings[alias]["NAME"])
    return _servers.setdefault(name, FakeServer())


def now() -> datetime:
    """Return the present time, as the tables keep it."""
    return datetime.now(timezone.utc)


def seconds(row: Mapping[str, Any], start: str = "started_at", end: str = "") -> float:
    """Return the seconds between two columns of a row; without an end, until now."""
    return float(((row.get(end) or now()) - row[start]).total_seconds())
