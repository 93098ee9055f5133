"""Who holds the leader lock: the process, its sessions, and what they are doing."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from django_safe_init.activity import Backend, Blocker, blockers, leader_backends
from django_safe_init.reading import Reader, RunRow


@dataclass(frozen=True)
class Holder:
    """A leader, as the server sees it at one moment."""

    #: The run that it has open; None before there is one, or while our tables are locked.
    run: RunRow | None
    #: Its sessions: the one that holds the leader lock, then those that hold the work key.
    backends: tuple[Backend, ...]
    #: What its statements wait for.
    blockers: tuple[Blocker, ...]

    def lines(self) -> list[str]:
        """All of it, for a person."""
        return [
            self._process(),
            *(f"  {backend}" for backend in self.backends),
            *(
                f"  blocked by {blocker}. To end only that: "
                f"SELECT pg_terminate_backend({blocker.pid});"
                for blocker in self.blockers
            ),
        ]

    def _process(self) -> str:
        run = self.run
        if run is None:
            return "led by a process that has no run to be seen"
        doing = f"{run.state} {run.message}".rstrip()
        return (
            f"led by {run.leader}, run {run.id} ({run.command}) for {run.age_seconds:.0f} s, "
            f"{run.done} of {run.total} done: {doing}; "
            f"last sign of life {run.silence_seconds:.0f} s ago"
        )


def find_holder(reader: Reader, lock_key: str | None) -> Holder | None:
    """Who holds the leader lock now, or None."""
    backends = leader_backends(reader.session, lock_key)
    if not backends or not backends[0].leads:
        return None
    waited_for = [pid for backend in backends for pid in backend.blocking_pids]
    return Holder(
        _open_run(reader, backends[0].pid),
        tuple(backends),
        blockers(reader.session, waited_for),
    )


def _open_run(reader: Reader, pid: int) -> RunRow | None:
    try:
        run = reader.glance().latest
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
        return None
    return run if run is not None and run.open and run.backend_pid == pid else None
