"""Connect Django's `migrate` in this thread to the run it belongs to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from django.db.migrations import Migration


class MigrationListener(Protocol):
    """Is called where Django calls its progress callback."""

    #: The migration that is being applied or reversed.
    current: str | None

    def on_apply_start(
        self, migration: Migration, *, backwards: bool, fake: bool
    ) -> None:
        """Prepare the migration, which Django is about to apply or reverse."""

    def on_apply_success(self, *, fake: bool) -> None:
        """Commit the migration, which Django has applied and recorded."""


#: The listener of this thread's run, by alias.
_listeners = threading.local()


def current_listener(alias: str) -> MigrationListener | None:
    """Return the listener of the run that this thread leads, if it leads one."""
    listeners: dict[str, MigrationListener | None] = _listeners.__dict__
    return listeners.get(alias)


def in_run(alias: str) -> bool:
    """Return True inside `run_context`: its `migrate` is a part of that run."""
    return alias in _listeners.__dict__


@contextmanager
def run_context(alias: str, listener: MigrationListener | None) -> Iterator[None]:
    """Let `current_listener` find the listener, and let no `migrate` take the lock.

    Without a listener `migrate` is Django's own: in the mode "off", and inside a step. Inside
    another `run_context`, as for a tenant that a migration creates, that one comes back.
    """
    listeners: dict[str, MigrationListener | None] = _listeners.__dict__
    outer = dict(listeners)
    listeners[alias] = listener
    try:
        yield
    finally:
        del listeners[alias]
        listeners.update({name: outer[name] for name in (alias,) if name in outer})
