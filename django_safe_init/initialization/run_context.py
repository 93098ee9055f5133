"""What a leader is asked to do, and where Django's `migrate` finds who watches it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django_safe_init.initialization.tracker import MigrationTracker


@dataclass(frozen=True)
class MigrateTask:
    """What a leader is to do, and how it may speak."""

    #: Runs Django's `migrate`, which finds its tracker with `current_tracker`.
    migrate: Callable[[], None]
    #: The command's name, for people who read the run's row.
    command: str
    #: Whether the work is to bring the database to this build, not to some other target.
    complete: bool = True
    #: Whether it is an error if the database is not there afterwards. Another package's
    #: `migrate` may do a part on purpose.
    promises_ready: bool = True
    #: Whether migrations are only recorded, or forgotten, without being done.
    fake: bool = False
    #: Unfinished migrations that may run again.
    rerun: tuple[str, ...] = ()
    #: Takes a line for the person who waits.
    report: Callable[[str], None] = lambda line: None


#: Where this thread leads: the tracker of the run that is under way, by alias.
_leading = threading.local()


def current_tracker(alias: str) -> MigrationTracker | None:
    """The tracker of the run that this thread leads, if it leads one."""
    trackers: dict[str, MigrationTracker | None] = _leading.__dict__
    return trackers.get(alias)


def in_run(alias: str) -> bool:
    """Whether this thread is inside `run_context`: a `migrate` here is a part of that."""
    return alias in _leading.__dict__


@contextmanager
def run_context(alias: str, tracker: MigrationTracker | None) -> Iterator[None]:
    """While entered, `current_tracker` finds the tracker, and no `migrate` takes the lock.

    Without a tracker nobody watches: the mode is "off".
    """
    _leading.__dict__[alias] = tracker
    try:
        yield
    finally:
        del _leading.__dict__[alias]
