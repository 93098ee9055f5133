"""Who is doing what: the processes and the open run, put together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .observer import Progress


class Member(Protocol):
    """One of the processes that are watched."""

    number: int


class Crew(Protocol):
    """The processes that are watched: the replicas of a fleet, or the workers of a server."""

    #: What one of them is called.
    noun: str
    #: Whether they are expected to agree on a leader.
    guarded: bool

    @property
    def members(self) -> Sequence[Member]: ...

    @property
    def labels(self) -> Sequence[str]:
        """What they may be doing, in the order in which it is shown."""

    def label(self, member: Member) -> str:
        """What it is doing."""

    def leader(self, pid: int) -> Member | None:
        """Who leads with this process, and is alive: a dead one's run stays open for a while."""

    @property
    def elapsed(self) -> float: ...

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""


@dataclass
class Standing:
    """Who leads, and the others by what they are doing."""

    leader: Member | None
    groups: dict[str, list[Member]]


def standing(crew: Crew, progress: Progress | None) -> Standing:
    """Sort them."""
    leader = crew.leader(progress.leader_pid) if progress else None
    result = Standing(leader, {label: [] for label in crew.labels})
    for member in crew.members:
        if member is not leader:
            result.groups[crew.label(member)].append(member)
    return result


def numbers(members: Iterable[Member]) -> str:
    """Their numbers, as short as it goes: `1-3, 5, 7-10`."""
    ranges: list[list[int]] = []
    for member in members:
        if ranges and ranges[-1][1] == member.number - 1:
            ranges[-1][1] = member.number
        else:
            ranges.append([member.number, member.number])
    return ", ".join(
        str(first) if first == last else f"{first}-{last}" for first, last in ranges
    )
