"""`safe_init_status --watch`: look again and again, also over a restart of the server."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Protocol

from django.core.management.base import OutputWrapper

from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.conf import get_settings
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.states import State
from django_safe_init.exceptions import DatabaseUnreachable
from django_safe_init.status import SECONDS_PER_QUERY, Status, open_reader, read_status


class Output(Protocol):
    """Shows what a reader sees."""

    def read_status(self, reader: BaseReader) -> Status:
        """Look, and show it."""

    def say(self, line: str) -> None:
        """Show a line about the connection."""

    def poll_interval(self) -> float:
        """How long to wait before the next look."""


def watch(database: str, view: Output) -> None:
    """Let the view look until the database is ready or the initialization failed.

    A connection that is lost is made again. Raises what `get_status` raises when there is none.
    """
    while True:
        reader = open_reader(database, get_settings(), Deadline(None), report=view.say)
        with closing(reader):
            try:
                return _watch(reader, view)
            except DatabaseUnreachable as exc:
                view.say(f"{exc} Connecting again.")
        time.sleep(view.poll_interval())


def _watch(reader: BaseReader, view: Output) -> None:
    while True:
        status = view.read_status(reader)
        if status.ready or status.state is State.ERROR:
            return
        time.sleep(view.poll_interval())


class PlainOutput:
    """A line at each change, for logs and for terminals without rich."""

    def __init__(self, database: str, output: OutputWrapper) -> None:
        self.database = database
        self.output = output
        self._told = ""

    def read_status(self, reader: BaseReader) -> Status:
        """Look, and tell what has changed; what is final is the command's to tell."""
        status = read_status(self.database, reader)
        final = status.ready or status.state is State.ERROR
        if status.message != self._told and not final:
            self._told = status.message
            self.say(status.message)
        return status

    def say(self, line: str) -> None:
        """Write a line."""
        self.output.write(f"{self.database}: {line}")
        self.output.flush()

    def poll_interval(self) -> float:
        """Three queries at most are a look."""
        return 3 * SECONDS_PER_QUERY
