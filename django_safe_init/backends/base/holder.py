"""Who holds the leader lock, for a person, and how to end that leader."""

from __future__ import annotations

from typing import Protocol

from django_safe_init.core.records import RunRow


class LockHolder(Protocol):
    """A leader as it was seen at one moment."""

    @property
    def question(self) -> str:
        """What to ask before it is ended."""

    def lines(self) -> list[str]:
        """All that is known of it, for a person."""

    def end(self, seconds: float) -> str | None:
        """End that leader, and no later one; returns why it is still there, or None."""


def describe(run: RunRow | None) -> str:
    """The process that leads, by the run that it has open."""
    if run is None:
        return "led by a process that has no run to be seen"
    doing = f"{run.state} {run.doing}".rstrip()
    return (
        f"led by {run.leader}, run {run.id} ({run.command}) for {run.age_seconds:.0f} s, "
        f"{run.done} of {run.total} done: {doing}; "
        f"last sign of life {run.silence_seconds:.0f} s ago"
    )
