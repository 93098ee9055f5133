"""Send statements on a psycopg connection without waiting for their result."""

from __future__ import annotations

import select
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.pq import ExecStatus

from django_safe_init.backends.postgresql.project_connection import plain_cursor


class PendingQuery:
    """Statements in flight, sent in one message of the simple protocol.

    The server executes them even if this process dies. No other statement may be sent on the
    connection until `wait` returns.
    """

    def __init__(
        self,
        raw: psycopg.Connection[Any],
        statements: str,
        params: Mapping[str, Any] | Sequence[Any] | None = None,
    ) -> None:
        self._raw = raw
        self._pgconn = raw.pgconn
        self._done = False
        self._error: psycopg.Error | None = None
        self._result: psycopg.pq.abc.PGresult | None = None
        self._cursor = plain_cursor(raw)
        text = self._cursor.mogrify(statements, params)
        try:
            self._pgconn.send_query(text.encode(raw.info.encoding))
            while self._pgconn.flush():
                self._poll_socket(select.POLLOUT)
        except psycopg.Error as exc:
            self._error, self._done = exc, True

    def wait(self) -> None:
        """Wait for the end of the statements, and keep their result or error."""
        while not self._done:
            try:
                self._receive_one()
            except psycopg.Error as exc:
                self._error, self._done = exc, True

    def rows(self) -> list[Any]:
        """Wait, and return the rows of the last statement, or raise the statements' error."""
        self.wait()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        transformer = psycopg.adapt.Transformer(self._cursor)
        transformer.set_pgresult(self._result)
        return transformer.load_rows(0, self._result.ntuples, tuple)

    def _receive_one(self) -> None:
        while self._pgconn.is_busy():
            self._poll_socket(select.POLLIN)
            self._pgconn.consume_input()
        result = self._pgconn.get_result()
        if result is None:
            self._done = True
        elif result.status == ExecStatus.FATAL_ERROR:
            encoding = self._raw.info.encoding
            self._error = psycopg.errors.error_from_result(result, encoding)
        else:
            self._result = result

    def _poll_socket(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._pgconn.socket, event)
        poll.poll()
