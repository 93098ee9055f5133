"""The states an initialization goes through, and the one table of what may follow what."""

from __future__ import annotations

import logging
from enum import Enum

from django_safe_init.signals import state_changed

logger = logging.getLogger("django_safe_init")


class State(str, Enum):
    """What an initialization is doing. The value is the word used in JSON, rows and logs."""

    #: Nothing has been done yet, or the database was deliberately left behind this build.
    UNINITIALIZED = "uninitialized"
    #: Waiting for the server to answer.
    CONNECTING = "connecting"
    #: Trying to become the leader, or following the one there is.
    ACQUIRING_LOCK = "acquiring_lock"
    #: Leading: taking over from a predecessor and reading what is left to do.
    CHECKING_SCHEMA = "checking_schema"
    #: Leading: running Django's `migrate`.
    MIGRATING = "migrating"
    #: Leading: checking that the work is complete and sound.
    VALIDATING = "validating"
    #: Everything this build knows is done.
    READY = "ready"
    #: The initialization failed, or its leader died.
    ERROR = "error"

    __str__ = str.__str__


TRANSITIONS: dict[State, frozenset[State]] = {
    State.UNINITIALIZED: frozenset({State.CONNECTING, State.ERROR}),
    # READY: the fast path, and a build that somebody else initializes.
    State.CONNECTING: frozenset({State.ACQUIRING_LOCK, State.READY, State.ERROR}),
    # READY: the leader that was followed finished this build's work.
    State.ACQUIRING_LOCK: frozenset({State.CHECKING_SCHEMA, State.READY, State.ERROR}),
    State.CHECKING_SCHEMA: frozenset({State.MIGRATING, State.ERROR}),
    State.MIGRATING: frozenset({State.VALIDATING, State.ERROR}),
    # UNINITIALIZED: `migrate shop 0003` is done, and this build is not initialized.
    State.VALIDATING: frozenset({State.READY, State.UNINITIALIZED, State.ERROR}),
    State.READY: frozenset({State.CONNECTING, State.ERROR}),
    State.ERROR: frozenset({State.CONNECTING}),
}


class InvalidTransition(RuntimeError):
    """A state was asked for that cannot follow the present one: a defect of this package."""


class StateMachine:
    """What this process is doing for one database.

    Each change is logged (logger `django_safe_init`) and sent as `state_changed`. Not
    thread-safe: one initialization has one machine and one thread.
    """

    def __init__(self, database: str) -> None:
        self.database = database
        self.state = State.UNINITIALIZED

    def to(self, new: State) -> None:
        """Change to `new`; raises `InvalidTransition` unless `TRANSITIONS` allows it."""
        old = self.state
        if new not in TRANSITIONS[old]:
            raise InvalidTransition(f"{old} cannot become {new} ({self.database})")
        self.state = new
        logger.info("%s: %s -> %s", self.database, old, new)
        state_changed.send(sender=type(self), database=self.database, old=old, new=new)
