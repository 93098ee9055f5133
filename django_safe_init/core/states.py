"""The states of an initialization and the transitions between them."""

from __future__ import annotations

import logging
from enum import Enum

from django_safe_init.signals import state_changed

logger = logging.getLogger("django_safe_init")


class State(str, Enum):
    """A state of an initialization. Its value is the word in JSON, rows and logs."""

    #: Not started, or the database was deliberately left behind this build.
    UNINITIALIZED = "uninitialized"
    #: Waiting for the database server to answer.
    CONNECTING = "connecting"
    #: Trying to become the leader, or following the current leader.
    ACQUIRING_LOCK = "acquiring_lock"
    #: Leading: taking over from a predecessor and reading the remaining work.
    CHECKING_SCHEMA = "checking_schema"
    #: Leading: running Django's `migrate`.
    MIGRATING = "migrating"
    #: Leading: checking that the work is complete and the schema is valid.
    VALIDATING = "validating"
    #: The database is initialized for this build.
    READY = "ready"
    #: The initialization failed, or its leader died.
    ERROR = "error"

    __str__ = str.__str__


TRANSITIONS: dict[State, frozenset[State]] = {
    State.UNINITIALIZED: frozenset({State.CONNECTING, State.ERROR}),
    # READY: the fast path, and a build that another process initializes.
    State.CONNECTING: frozenset({State.ACQUIRING_LOCK, State.READY, State.ERROR}),
    # READY: the leader that this process followed finished this build's work.
    State.ACQUIRING_LOCK: frozenset({State.CHECKING_SCHEMA, State.READY, State.ERROR}),
    State.CHECKING_SCHEMA: frozenset({State.MIGRATING, State.ERROR}),
    State.MIGRATING: frozenset({State.VALIDATING, State.ERROR}),
    # UNINITIALIZED: `migrate shop 0003` finished, but this build is not initialized.
    # MIGRATING: the schemas of tenants follow the shared schema.
    State.VALIDATING: frozenset(
        {State.READY, State.UNINITIALIZED, State.MIGRATING, State.ERROR}
    ),
    State.READY: frozenset({State.CONNECTING, State.ERROR}),
    State.ERROR: frozenset({State.CONNECTING}),
}


class InvalidTransition(RuntimeError):
    """The requested state cannot follow the current one: a bug in this package."""


class StateMachine:
    """The current state of this process's initialization of one database.

    Each change is logged (logger `django_safe_init`) and sent as `state_changed`. Not
    thread-safe: one initialization has one machine and one thread.
    """

    def __init__(self, database: str) -> None:
        self.database = database
        self.state = State.UNINITIALIZED

    def transition_to(self, new: State) -> None:
        """Change to `new`. Raise `InvalidTransition` unless `TRANSITIONS` allows it."""
        old = self.state
        if new not in TRANSITIONS[old]:
            raise InvalidTransition(f"{old} cannot become {new} ({self.database})")
        self.state = new
        logger.info("%s: %s -> %s", self.database, old, new)
        state_changed.send(sender=type(self), database=self.database, old=old, new=new)
