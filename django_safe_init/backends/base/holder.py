"""Describe the current leader to a person, and end it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.core.records import RunRow, TablesLocked
from django_safe_init.core.text import printable


class LockHolder(ABC):
    """The holder of the leader lock, as one query found it."""

    #: Asks a person to confirm the end of the leader.
    question: ClassVar[str]

    @property
    def refusal(self) -> str | None:
        """Return the reason why `end` cannot end the holder, with the remedy, or None."""
        return None

    @abstractmethod
    def lines(self) -> list[str]:
        """Return the lines that describe the leader to a person."""

    @abstractmethod
    def end(self, seconds: float) -> str | None:
        """End this leader, but no later one; return None, or the reason why it still leads.

        Waits at most `seconds`.
        """


def open_run(reader: BaseReader) -> RunRow | None:
    """Return the newest run if it is open; None also while the status tables are locked."""
    try:
        run = reader.peek().latest
    except TablesLocked:
        return None
    return run if run is not None and run.open else None


def describe(run: RunRow | None, leader: str = "") -> str:
    """Return one line about the leader, from its open run; before that, with its name if known."""
    if run is None:
        named = f"the leader {printable(leader)}" if leader else "a leader"
        return f"{named} that has no run to be seen"
    doing = f"{run.state} {run.doing}".rstrip()
    return (
        f"the {run.leader_title} ({run.command}), for {run.age_seconds:.0f} s, "
        f"{run.done} of {run.total} done: {doing}; "
        f"last sign of life {run.silence_seconds:.0f} s ago"
    )
