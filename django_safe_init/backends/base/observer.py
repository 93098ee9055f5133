"""Define the connection of a waiting process."""

from __future__ import annotations

from abc import ABC, abstractmethod

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.core.findings import management_command_line
from django_safe_init.core.records import LeaderSnapshot


class BaseObserver(ABC):
    """A follower's connection to a database, opened on first use.

    Between two calls it holds no snapshot, transaction or lock.
    """

    #: False while the server has too few free connections to keep one: each poll opens its own,
    #: so it should ask little.
    keeps_connection = True

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def reader(self) -> BaseReader:
        """Return a reader on the open connection, or on a new one."""

    def direct_reader(self) -> BaseReader:
        """Return a reader on a connection that may hold the leader lock."""
        return self.reader()

    def end_stalled(self, snapshot: LeaderSnapshot) -> bool:
        """End a leader without a heartbeat; return True if a leader was ended.

        `snapshot` is the newest snapshot, without a run if the tables could not be read. Does
        nothing if `STALLED_AFTER` is not set, or if no other process can end a leader.
        """
        return False

    def how_to_end(self, leader_pid: int) -> list[str]:
        """Return the commands of which each ends the leader, for a person."""
        return [management_command_line("safe_init_unlock", self.context.alias)]

    @abstractmethod
    def wait(self) -> None:
        """Wait until the leader ends, or until the next poll is due."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; the next call opens another."""
