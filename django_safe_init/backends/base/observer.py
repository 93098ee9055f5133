"""Define how a process that waits reads a database."""

from __future__ import annotations

from abc import ABC, abstractmethod

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.core.records import LeaderSnapshot


class BaseObserver(ABC):
    """A follower's connection to a database, opened when it is first used.

    It keeps no snapshot, no transaction and no lock between two calls.
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def reader(self) -> BaseReader:
        """Return a reader on the present connection, or on a new one."""

    def direct_reader(self) -> BaseReader:
        """Return a reader on a connection that may hold the leader lock."""
        return self.reader()

    def end_stalled(self, snapshot: LeaderSnapshot) -> bool:
        """End a leader without a heartbeat; return True if one was ended.

        `snapshot` is the newest one, without a run if the tables could not be read. Does
        nothing unless `STALLED_AFTER` is set, and where a leader cannot be ended from outside.
        """
        return False

    @abstractmethod
    def how_to_end(self, leader_pid: int) -> str:
        """Return the command with which a person ends the leader."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until the leader ends, about a second at most."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; the next call opens another."""
