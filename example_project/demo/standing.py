"""Who is doing what: the processes and the open run, put together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .fleet import Fleet, Replica
from .observer import Progress


@dataclass
class Standing:
    """Who leads, and the others by what they are doing."""

    leader: Replica | None
    groups: dict[str, list[Replica]]


def standing(fleet: Fleet, progress: Progress | None) -> Standing:
    """Sort them. A leader is one that lives: a dead one's run stays open until a successor's."""
    labels = (
        ("starting", "waiting", "ready", "failed", "killed")
        if fleet.guarded
        else ("running", "exited 0", "failed")
    )
    result = Standing(None, {label: [] for label in labels})
    for replica in fleet.replicas:
        if (
            progress
            and replica.pid == progress.leader_pid
            and replica.exit_code is None
        ):
            result.leader = replica
        else:
            result.groups[_label(fleet, replica)].append(replica)
    return result


def _label(fleet: Fleet, replica: Replica) -> str:
    if replica.killed:
        return "killed"
    if replica.exit_code:
        return "failed"
    if replica.exit_code == 0:
        return "ready" if fleet.guarded else "exited 0"
    if not fleet.guarded:
        return "running"
    return "waiting" if replica.speaks else "starting"


def numbers(replicas: Iterable[Replica]) -> str:
    """Their numbers, as short as it goes: `1-3, 5, 7-10`."""
    ranges: list[list[int]] = []
    for replica in replicas:
        if ranges and ranges[-1][1] == replica.number - 1:
            ranges[-1][1] = replica.number
        else:
            ranges.append([replica.number, replica.number])
    return ", ".join(
        str(first) if first == last else f"{first}-{last}" for first, last in ranges
    )
