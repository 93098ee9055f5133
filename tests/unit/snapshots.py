"""Rows and snapshots as a database could have given them."""

from __future__ import annotations

from typing import Any

from django_safe_init.core.records import RunRow, Snapshot
from django_safe_init.core.states import State

OWN, OTHER = "own build", "other build"


def run_row(id_: int = 1, **changes: Any) -> RunRow:
    """Return an open run of this build that migrates."""
    values: dict[str, Any] = {
        "build": OWN,
        "state": State.MIGRATING,
        "outcome": None,
        "done": 3,
        "total": 14,
        "progress": 21,
        "message": "shop.0004_x",
        "leader": "web-1:77",
        "backend_pid": 4711,
        "command": "safe_migrate",
        "started_at": "2026-01-01T00:00:00+00:00",
        "finished_at": None,
        "error": None,
        "age_seconds": 12.3,
        "silence_seconds": 0.5,
        "duration_seconds": 12.3,
    }
    return RunRow(id=id_, **{**values, **changes})


def ended_run(id_: int, outcome: str, **changes: Any) -> RunRow:
    """Return a run with this outcome."""
    state = State.READY if outcome in ("ready", "partial") else State.ERROR
    error = None if state is State.READY else "ValueError: it broke"
    return run_row(id_, outcome=outcome, **{"state": state, "error": error, **changes})


def snapshot(
    latest: RunRow | None = None, own: RunRow | None = None, **changes: Any
) -> Snapshot:
    """Return a snapshot; `own` is `latest` if that run is of this build."""
    if own is None and latest is not None and latest.build == OWN:
        own = latest
    values: dict[str, Any] = {
        "missing": (),
        "finished": own is not None and own.outcome == "ready",
        "superseded": False,
        "leader_pid": None,
    }
    return Snapshot(latest=latest, own=own, **{**values, **changes})
