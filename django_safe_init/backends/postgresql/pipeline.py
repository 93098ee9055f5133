"""Send statements on a psycopg connection, and wait for their results for a limited time."""

from __future__ import annotations

import selectors
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.pq import ExecStatus


class PendingQuery:
    """Statements in flight, sent in one message of the simple protocol.

    The server executes them even if this process dies. No other statement may be sent on the
    connection until `wait` returns.
    """

    def __init__(
        self,
        cursor: psycopg.ClientCursor[Any],
        statements: str,
        params: Mapping[str, Any] | Sequence[Any] | None = None,
    ) -> None:
        self._cursor = cursor
        self._raw = cursor.connection
        self._pgconn = self._raw.pgconn
        self._done = False
        self._error: psycopg.Error | None = None
        self._results: list[psycopg.pq.abc.PGresult] = []
        text = cursor.mogrify(statements, params)
        try:
            self._pgconn.send_query(text.encode(self._raw.info.encoding))
            while self._pgconn.flush():
                self._wait_for_socket(selectors.EVENT_WRITE, None)
        except psycopg.Error as exc:
            self._fail(exc)

    def _fail(self, error: psycopg.Error) -> None:
        # The server's last words say more than the end of the connection after them.
        self._error = self._error or error
        self._done = True

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the end of the statements, and keep their results or their error.

        Closes the connection after `seconds`: a later answer would belong to no statement.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while not self._done:
            try:
                if not self._receive_one(end):
                    self._raw.close()
                    raise psycopg.OperationalError(f"no answer for {seconds:g} s")
            except psycopg.Error as exc:
                self._fail(exc)

    def rows(self, seconds: float | None = None) -> list[Any]:
        """Wait, and return the rows of the last statement, or raise the statements' error."""
        return self.all_rows(seconds)[-1]

    def all_rows(self, seconds: float | None = None) -> list[list[Any]]:
        """Wait, and return the rows of each statement, or raise the statements' error."""
        self.wait(seconds)
        if self._error is not None:
            raise self._error
        return [self._rows_of(result) for result in self._results]

    def _rows_of(self, result: psycopg.pq.abc.PGresult) -> list[Any]:
        transformer = psycopg.adapt.Transformer(self._cursor)
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)

    def _receive_one(self, end: float | None) -> bool:
        """Receive the next result, or the end of all; return False if it is late."""
        while self._pgconn.is_busy():
            if not self._wait_for_socket(selectors.EVENT_READ, end):
                return False
            self._pgconn.consume_input()
        result = self._pgconn.get_result()
        if result is None:
            self._done = True
        elif result.status == ExecStatus.FATAL_ERROR:
            encoding = self._raw.info.encoding
            error = psycopg.errors.error_from_result(result, encoding)
            self._error = self._error or error
        else:
            self._results.append(result)
        return True

    def _wait_for_socket(self, event: int, end: float | None) -> bool:
        # Not `select.poll`, which eventlet removes.
        with selectors.DefaultSelector() as selector:
            selector.register(self._pgconn.socket, event)
            left = None if end is None else max(0.0, end - time.monotonic())
            return bool(selector.select(left))
