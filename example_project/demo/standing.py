"""The state of each watched process, combined with the open run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .observer import Progress


class Member(Protocol):
    """A watched process."""

    number: int


class Crew(Protocol):
    """The watched processes: the replicas of a fleet, or the workers of a web server."""

    #: The noun for one process.
    noun: str
    #: True if the processes should agree on a leader.
    guarded: bool

    @property
    def members(self) -> Sequence[Member]: ...

    @property
    def labels(self) -> Sequence[str]:
        """The possible states of a member, in the order of the display."""

    def label(self, member: Member) -> str:
        """Return the state of the member."""

    def leader(self, pid: int) -> Member | None:
        """Return the living member that leads with this process id, if any."""

    @property
    def elapsed(self) -> float: ...

    @property
    def over(self) -> bool:
        """True if the state of no member will change any more."""


@dataclass
class Standing:
    """The leader, and the other members by their state."""

    leader: Member | None
    groups: dict[str, list[Member]]


def standing(crew: Crew, progress: Progress | None) -> Standing:
    """Group the members by their state."""
    leader = crew.leader(progress.leader_pid) if progress else None
    result = Standing(leader, {label: [] for label in crew.labels})
    for member in crew.members:
        if member is not leader:
            result.groups[crew.label(member)].append(member)
    return result


def numbers(members: Iterable[Member]) -> str:
    """Return the members' numbers in short form: `1-3, 5, 7-10`."""
    ranges: list[list[int]] = []
    for member in members:
        if ranges and ranges[-1][1] == member.number - 1:
            ranges[-1][1] = member.number
        else:
            ranges.append([member.number, member.number])
    return ", ".join(
        str(first) if first == last else f"{first}-{last}" for first, last in ranges
    )
