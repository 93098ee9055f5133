"""Count the points of a run that a death can separate, and die at one of them.

`RESUME_POINTS` is a file that gets a line for each point: its kind, and the number of the
operation. `RESUME_KILL` is `KIND:N`, for the Nth point of the kind. A kind with "during" is inside
a statement: PostgreSQL has received it and continues after the death, SQLite is executing it.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

_kind, _, _number = os.environ.get("RESUME_KILL", "").rpartition(":")
_file = os.open(os.environ["RESUME_POINTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_counts: Counter[str] = Counter()
_PROGRESS = 5


class _Now:
    """The work of this process at present."""

    active = False
    #: The last migration with a journal.
    journaled: Any = None
    operation = 0
    bare = False
    deferred = False


def point(kind: str) -> None:
    """Pass a point, or die there."""
    if _passes(kind):
        die()


def die() -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def _passes(kind: str) -> bool:
    """Count the point, and return True if the process shall die there."""
    if not _Now.active:
        return False
    _counts[kind] += 1
    os.write(_file, f"{kind}\t{_Now.operation}\n".encode())
    return kind == _kind and _counts[kind] == int(_number)


def install() -> None:
    """Put points around the work of the package and of Django."""
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.signals import connection_created
    from django.db.migrations.recorder import MigrationRecorder

    from django_safe_init.initialization.operations import OperationRunner
    from django_safe_init.initialization.units import UnitRunner

    _around(OperationRunner, "replaced", _activate)
    _around(OperationRunner, "_run", _operation)
    _around(UnitRunner, "run", _pointed("operation"))
    _around(UnitRunner, "_run_bare", _flagged("bare"))
    _around(UnitRunner, "_store", _stored)
    _around(UnitRunner, "run_deferred", _pointed("all deferred SQL"))
    _around(UnitRunner, "_run_one_deferred", _flagged("deferred"))
    _around(MigrationRecorder, "record_applied", _pointed("recording"))
    _around(MigrationRecorder, "record_unapplied", _pointed("recording"))
    _around(BaseDatabaseWrapper, "_commit", _commit)
    connection_created.connect(_connected, weak=False)


def install_for_atomic() -> None:
    """Put points around the statements of migrations that have no journal, too."""
    from django.db.migrations import Migration

    _around(Migration, "apply", _applied)


Method = Callable[..., Any]


def _around(owner: type, name: str, advice: Callable[..., Any]) -> None:
    method = getattr(owner, name)

    @wraps(method)
    def around(self: Any, *args: Any, **kwargs: Any) -> Any:
        return advice(lambda: method(self, *args, **kwargs), self, *args)

    setattr(owner, name, around)


def _activate(run: Method, runner: Any, *args: Any) -> Any:
    _Now.active, _Now.journaled = True, runner.migration
    return run()


def _applied(run: Method, migration: Any, *args: Any) -> Any:
    if migration is _Now.journaled:
        return run()
    _Now.active, _Now.operation = True, 1
    try:
        return run()
    finally:
        _Now.operation = 0


def _operation(
    run: Method, runner: Any, operation: Any, number: int, *args: Any
) -> Any:
    _Now.operation = number
    result = run()
    _Now.operation = 0
    return result


def _pointed(what: str) -> Callable[..., Any]:
    def advice(run: Method, *args: Any) -> Any:
        point(f"before {what}")
        result = run()
        point(f"after {what}")
        return result

    return advice


def _flagged(name: str) -> Callable[..., Any]:
    def advice(run: Method, *args: Any) -> Any:
        setattr(_Now, name, True)
        try:
            return run()
        finally:
            setattr(_Now, name, False)

    return advice


def _stored(run: Method, *args: Any) -> Any:
    point("between work and journal")
    return run()


def _commit(run: Method, connection: Any) -> Any:
    point("before commit")
    if _passes("during commit"):
        _die_during(connection, "COMMIT", None)
        run()
        die()  # SQLite was faster
    result = run()
    point("after commit")
    return result


def _connected(sender: Any, connection: Any, **kwargs: Any) -> None:
    if connection.alias == "default" and _executed not in connection.execute_wrappers:
        connection.execute_wrappers.insert(0, _executed)


def _executed(execute: Method, sql: Any, params: Any, many: bool, context: Any) -> Any:
    kind = _kind_of(str(sql))
    if kind is None:
        return execute(sql, params, many, context)
    point(f"before {kind}")
    if _passes(f"during {kind}"):
        _die_during(context["connection"], str(sql), params)
        execute(sql, params, many, context)
        die()  # SQLite was faster
    result = execute(sql, params, many, context)
    point(f"after {kind}")
    return result


def _kind_of(sql: str) -> str | None:
    if "django_safe_init_operation" in sql:
        return "a statement of the journal"
    if "django_migrations" in sql:
        return None if sql.startswith("SELECT") else "the record"
    if _Now.deferred:
        return "deferred SQL"
    if not _Now.operation:
        return None
    return "a statement without transaction" if _Now.bare else "a statement"


def _die_during(connection: Any, sql: str, params: Any) -> None:
    """Send the statement to PostgreSQL and die; on SQLite let the statement's work kill."""
    raw = connection.connection
    if connection.vendor == "sqlite":
        raw.set_progress_handler(die, _PROGRESS)
        return
    from psycopg import ClientCursor
    from psycopg.pq import TransactionStatus

    while raw.pgconn.get_result():  # of statements that the package has only sent
        pass

    text = sql if params is None else ClientCursor(raw).mogrify(sql, params)
    if not raw.autocommit and raw.info.transaction_status is TransactionStatus.IDLE:
        text = f"BEGIN; {text}"
    raw.pgconn.send_query(text.encode())
    raw.pgconn.flush()
    die()
