"""Kill the leader during its slowest migration, and time the takeover, for --kill-leader."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .fleet import Fleet, Replica
from .observer import Progress

SLOW_MIGRATION = "catalog.0013_backfill_prices"


@dataclass
class Killer:
    """Kills one leader, depending on the progress that it receives."""

    wait_seconds: float
    victim: Replica | None = None
    successor: Replica | None = None
    takeover_seconds: float = 0.0
    _run: int = 0
    _seen_at: float = 0.0
    _killed_at: float = 0.0

    def act(self, fleet: Fleet, progress: Progress | None) -> None:
        """Kill the leader in the middle of the slow migration, or record its successor."""
        if progress is None or self.successor:
            return
        if self.victim is None:
            self._kill_leader(fleet, progress)
        elif progress.run > self._run:
            self.successor = fleet.find(progress.leader_pid)
            self.takeover_seconds = time.monotonic() - self._killed_at

    @property
    def note(self) -> str:
        """Return what happened so far in one line, or an empty string."""
        if self.successor:
            return f"replica {self.successor.number} took over {self.takeover_seconds:.2f} s later"
        return (
            f"replica {self.victim.number}, the leader, is killed"
            if self.victim
            else ""
        )

    def _is_time(self, progress: Progress) -> bool:
        return progress.migration == SLOW_MIGRATION

    def _kill_leader(self, fleet: Fleet, progress: Progress) -> None:
        leader = fleet.find(progress.leader_pid)
        if leader is None or not self._is_time(progress):
            return
        self._seen_at = self._seen_at or time.monotonic()
        if time.monotonic() - self._seen_at >= self.wait_seconds:
            self._killed_at = time.monotonic()
            fleet.kill(leader)
            self.victim, self._run = leader, progress.run
