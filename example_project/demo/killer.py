"""For --kill-leader: end the leader in the middle of its slowest work, and time the takeover."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .fleet import Fleet, Replica
from .observer import Progress

SLOW_MIGRATION = "catalog.0013_backfill_prices"


@dataclass
class Killer:
    """Told of every look at the tables, it acts once."""

    wait_seconds: float
    victim: Replica | None = None
    successor: Replica | None = None
    takeover_seconds: float = 0.0
    _run: int = 0
    _seen_at: float = 0.0
    _killed_at: float = 0.0

    def act(self, fleet: Fleet, progress: Progress | None) -> None:
        """Kill the leader in the middle of the slow migration; later, notice its successor."""
        if progress is None or self.successor:
            return
        if self.victim is None:
            self._strike(fleet, progress)
        elif progress.run > self._run:
            self.successor = fleet.find(progress.leader_pid)
            self.takeover_seconds = time.monotonic() - self._killed_at

    @property
    def note(self) -> str:
        """What happened so far, in one line."""
        if self.successor:
            return f"replica {self.successor.number} took over {self.takeover_seconds:.2f} s later"
        return (
            f"replica {self.victim.number}, the leader, is killed"
            if self.victim
            else ""
        )

    def _strike(self, fleet: Fleet, progress: Progress) -> None:
        leader = fleet.find(progress.leader_pid)
        if leader is None or progress.migration != SLOW_MIGRATION:
            return
        self._seen_at = self._seen_at or time.monotonic()
        if time.monotonic() - self._seen_at >= self.wait_seconds:
            self._killed_at = time.monotonic()
            fleet.kill(leader)
            self.victim, self._run = leader, progress.run
