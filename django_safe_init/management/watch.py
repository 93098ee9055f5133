"""Polling loop of `safe_init_status --watch`, which reconnects after a lost connection."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Protocol

from django.core.management.base import OutputWrapper

from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.conf import get_settings
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.states import State
from django_safe_init.core.text import printable_hint, wrap
from django_safe_init.exceptions import DatabaseUnreachable
from django_safe_init.status import (
    SECONDS_PER_QUERY,
    Status,
    open_reader,
    read_status,
)


class Output(Protocol):
    """Display of a status that `watch` polls."""

    def show_status(self, reader: BaseReader) -> Status:
        """Read the status, show it, and return it."""

    def report(self, line: str) -> None:
        """Show a line about the connection."""

    def poll_interval(self) -> float:
        """Return the seconds until the next call of `show_status`."""


def watch(database: str, output: Output) -> None:
    """Show the status until the database is ready or its initialization failed.

    Open a new connection when the current one is lost. Raises as `get_status` does if no
    connection is possible.
    """
    while True:
        reader = open_reader(
            database, get_settings(), Deadline(None), report=output.report
        )
        with closing(reader):
            try:
                return _poll(reader, output)
            except DatabaseUnreachable as exc:
                output.report(f"{exc} Connecting again.")
        time.sleep(output.poll_interval())


def _poll(reader: BaseReader, output: Output) -> None:
    while not _is_final(output.show_status(reader)):
        time.sleep(output.poll_interval())


def _is_final(status: Status) -> bool:
    return status.ready or status.state is State.ERROR


class PlainOutput:
    """Output of a line for each change, for logs and for terminals without rich."""

    def __init__(self, database: str, stream: OutputWrapper) -> None:
        self.database = database
        self.stream = stream
        self._last_message = ""

    def show_status(self, reader: BaseReader) -> Status:
        """Read the status, and write its message if it changed.

        The command itself prints the final status.
        """
        status = read_status(self.database, reader)
        if status.message != self._last_message and not _is_final(status):
            self._last_message = status.message
            self.report(status.message)
        return status

    def report(self, line: str) -> None:
        """Write a line."""
        self.stream.write(printable_hint(wrap(f"{self.database}: ", line)))
        self.stream.flush()

    def poll_interval(self) -> float:
        """Return the seconds for the three queries that `show_status` needs at most."""
        return 3 * SECONDS_PER_QUERY
