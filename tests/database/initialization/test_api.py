"""`ainitialize` and `aget_status` beside an event loop, and their cancellation."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar

import psycopg
import pytest
from django.db import connections

from django_safe_init import (
    ConfigurationError,
    DatabaseUnreachable,
    State,
    WaitTimeout,
    aget_status,
    ainitialize,
)
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_keys import leader_key, work_key
from django_safe_init.core.cancellation import CancellationToken
from django_safe_init.core.records import RUN_TABLE
from django_safe_init.core.threads import InitializationThread
from tests.support import ENDLESS, PATIENCE, wait_until

SLEEPING = "state = 'active' AND query LIKE '%%pg_sleep%%'"
TICK = 0.01


class Ticks:
    """The times at which an event loop ran a task."""

    def __init__(self) -> None:
        self.at: list[float] = []

    async def run(self) -> None:
        while True:
            self.at.append(time.monotonic())
            await asyncio.sleep(TICK)


@asynccontextmanager
async def ticking() -> AsyncIterator[Ticks]:
    ticks = Ticks()
    task = asyncio.create_task(ticks.run())
    try:
        yield ticks
    finally:
        task.cancel()


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Return when the condition is true; the event loop continues."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, condition
        await asyncio.sleep(TICK)


def own_threads() -> list[threading.Thread]:
    return [
        each for each in threading.enumerate() if isinstance(each, InitializationThread)
    ]


@pytest.fixture
def assert_nothing_left(django_database):
    """Return a function that asserts a cancelled task left no thread, lock or connection."""

    def check() -> None:
        assert own_threads() == []
        # The server takes a moment to notice that a client has gone.
        wait_until(lambda: not django_database.backends())
        assert django_database.holders(leader_key()) == []
        assert django_database.holders(work_key()) == []
        if django_database.value(f"SELECT to_regclass('{RUN_TABLE}') IS NOT NULL"):
            assert {run["outcome"] for run in django_database.runs()} <= {
                "interrupted",
                "ready",
            }

    return check


async def cancel(task: asyncio.Task) -> None:
    """Cancel the task and wait for its end."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# Several at once


def test_ten_at_once(django_database, small_shop, session) -> None:
    """Ten tasks wait on ten backends while the event loop ticks; then one of them leads."""
    lock = AdvisoryLock(session)
    assert lock.try_acquire()

    def waiting() -> bool:
        return len({row["pid"] for row in django_database.followers()}) == 10

    async def main():
        async with ticking() as ticks:
            tasks = [asyncio.create_task(ainitialize()) for _ in range(10)]
            await until(waiting)
            assert len(own_threads()) == 10
            before = len(ticks.at)
            await until(lambda: len(ticks.at) >= before + 50)
            assert waiting()
            lock.release()
            return await asyncio.gather(*tasks)

    outcomes = asyncio.run(main())
    assert sorted(each.role for each in outcomes) == ["follower"] * 9 + ["leader"]
    assert {each.result for each in outcomes} == {"ready"}
    assert len(django_database.applied_once()) == 2
    assert [run["outcome"] for run in django_database.runs()] == ["ready"]
    assert own_threads() == []


def test_a_busy_executor(django_database, small_shop) -> None:
    """`ainitialize` needs no thread of the default executor."""
    hold = threading.Event()

    async def main():
        loop = asyncio.get_running_loop()
        held = [loop.run_in_executor(None, hold.wait, 60) for _ in range(40)]
        outcome = await ainitialize()
        hold.set()
        await asyncio.gather(*held)
        return outcome

    assert asyncio.run(main()).role == "leader"


def test_status(django_database, small_shop) -> None:
    """`aget_status` returns the same as `get_status`."""

    async def main():
        before = await aget_status()
        await ainitialize("default", timeout=20)
        return before.state, (await aget_status()).state

    assert asyncio.run(main()) == (State.UNINITIALIZED, State.READY)


def test_errors(django_database, small_shop, log_in_as, settings) -> None:
    """`ainitialize` and `aget_status` raise the errors of the blocking functions."""
    with pytest.raises(ConfigurationError, match="There is no database 'nowhere'"):
        asyncio.run(ainitialize("nowhere"))
    with pytest.raises(WaitTimeout):
        asyncio.run(ainitialize(mode="external", timeout=0))
    settings.SAFE_INIT = {**settings.SAFE_INIT, "CONNECT_ATTEMPTS": 1}
    log_in_as(PORT="1")
    with pytest.raises(DatabaseUnreachable):
        asyncio.run(aget_status())


release: ContextVar[str] = ContextVar("release")


def test_context_variables(django_database, small_shop) -> None:
    """The thread sees the task's context variables; its own changes do not reach the task."""
    seen = []

    def read_and_set(connection) -> None:
        seen.append(release.get())
        release.set("theirs")

    small_shop.run("0003_read", read_and_set)

    async def main() -> str:
        release.set("ours")
        await ainitialize()
        return release.get()

    assert asyncio.run(main()) == "ours"
    assert seen == ["ours"]


def test_connections_are_closed(django_database, small_shop) -> None:
    """The thread closes its connections, also in mode "off"."""
    asyncio.run(ainitialize(mode="off"))
    wait_until(lambda: not django_database.backends())
    assert len(django_database.applied_once()) == 2


def test_two_initializers_in_one_process(django_database, small_shop) -> None:
    """An initializer that starts while another one leads does not hold that leader's work key."""
    inside, go = threading.Event(), threading.Event()

    def wait(connection) -> None:
        inside.set()
        assert go.wait(PATIENCE)

    small_shop.run("0003_wait", wait)

    def holds_work_key() -> bool:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            [pid] = cursor.fetchone()
            return pid in django_database.holders(work_key())

    async def main() -> bool:
        task = asyncio.create_task(ainitialize())
        await until(inside.is_set)
        other = InitializationThread(holds_work_key, CancellationToken())
        other.start()
        fenced = await asyncio.wrap_future(other.future)
        go.set()
        await task
        return fenced

    assert asyncio.run(main()) is False


# Cancellation


def test_a_cancelled_follower(
    django_database, small_shop, session, assert_nothing_left
) -> None:
    """A cancelled follower ends promptly and closes its connection."""
    assert AdvisoryLock(session).try_acquire()

    async def main() -> None:
        task = asyncio.create_task(ainitialize())
        await until(
            lambda: django_database.backends("query LIKE '%%LISTEN%%'"),
        )
        await cancel(task)

    asyncio.run(main())
    session.close()
    assert_nothing_left()


@pytest.mark.parametrize("atomic", [True, False])
def test_a_cancelled_leader(
    django_database, small_shop, assert_nothing_left, atomic
) -> None:
    """Cancellation ends the statement, closes the run as interrupted and frees the lock."""

    def work(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO shop_product (name) SELECT pg_sleep(%s)::text", [ENDLESS]
            )

    small_shop.run("0003_sleep", work, atomic=atomic)

    async def main() -> None:
        async with ticking() as ticks:
            task = asyncio.create_task(ainitialize())
            await until(lambda: django_database.backends(SLEEPING))
            before = len(ticks.at)
            await until(lambda: len(ticks.at) >= before + 20)
            await cancel(task)
            assert_nothing_left()

    asyncio.run(main())
    [run] = django_database.runs()
    assert (run["outcome"], run["state"]) == ("interrupted", "error")
    assert len(django_database.applied_once()) == 2
    assert django_database.value("SELECT count(*) FROM shop_product") == 0


def test_a_cancelled_migration_in_python(
    django_database, small_shop, assert_nothing_left
) -> None:
    """Cancellation ends a Python migration at its next query, even if it catches `Exception`."""
    inside = threading.Event()

    def work(connection) -> None:
        while True:
            inside.set()
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
            except Exception as exc:
                raise AssertionError("only a BaseException ends it") from exc

    small_shop.run("0003_work", work)

    async def main() -> None:
        task = asyncio.create_task(ainitialize())
        await until(inside.is_set)
        await cancel(task)
        assert_nothing_left()

    asyncio.run(main())
    assert len(django_database.applied_once()) == 2


@pytest.mark.parametrize("atomic", [True, False])
def test_a_cancelled_migration_without_queries(
    django_database, small_shop, assert_nothing_left, atomic
) -> None:
    """A cancelled task waits for Python code without queries, and the migration is not recorded."""
    inside, go = threading.Event(), threading.Event()

    def work(connection) -> None:
        inside.set()
        assert go.wait(PATIENCE)

    small_shop.run("0003_work", work, atomic=atomic)

    async def main() -> None:
        task = asyncio.create_task(ainitialize())
        await until(inside.is_set)
        for _ in range(3):
            task.cancel()
            await asyncio.wait([task], timeout=0.05)
            assert not task.done()
        go.set()
        await cancel(task)
        assert_nothing_left()

    asyncio.run(main())
    assert len(django_database.applied_once()) == 2
    [step] = [row for row in django_database.steps() if row["name"].endswith("work")]
    assert step["outcome"] == ("failed" if atomic else None)
    go.set()
    assert asyncio.run(ainitialize()).applied == ("shop.0003_work",)


def test_a_thread_that_outlives_a_cancelled_run(
    django_database, small_shop, in_background
) -> None:
    """A thread that a migration started keeps a working connection after the cancellation."""
    asked, ask_again = threading.Event(), threading.Event()
    started = []

    def outlive() -> int:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT 1")
            asked.set()
            assert ask_again.wait(PATIENCE)
            cursor.execute("SELECT 2")
            return cursor.fetchone()[0]

    def work(connection) -> None:
        started.append(in_background(outlive))
        assert asked.wait(PATIENCE)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(60)")

    small_shop.run("0003_work", work)

    async def main() -> None:
        task = asyncio.create_task(ainitialize())
        await until(lambda: django_database.backends(SLEEPING))
        await cancel(task)

    asyncio.run(main())
    ask_again.set()
    assert started[0].result() == 2


def test_cancelled_in_a_commit(
    django_database, small_shop, assert_nothing_left
) -> None:
    """Cancellation also ends commands that bypass Django's cursors, such as COMMIT."""
    django_database.rows(
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$"
    )

    def work(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON shop_product"
                " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION linger()"
            )
            cursor.execute("INSERT INTO shop_product (name) VALUES ('x')")

    small_shop.run("0003_work", work)

    async def main() -> None:
        task = asyncio.create_task(ainitialize())
        await until(
            lambda: django_database.backends(
                "wait_event = 'PgSleep' AND query = 'COMMIT'"
            )
        )
        await cancel(task)
        assert_nothing_left()

    asyncio.run(main())
    assert django_database.newest_run()["outcome"] == "interrupted"
    assert len(django_database.applied_once()) == 2


def test_cancelled_while_the_server_is_away(
    django_database, small_shop, log_in_as, assert_nothing_left
) -> None:
    """Cancellation ends a pause between two attempts to connect."""
    log_in_as(PORT="1")

    async def main() -> None:
        task = asyncio.create_task(ainitialize())
        await until(own_threads)
        await cancel(task)

    asyncio.run(main())
    assert_nothing_left()


def test_cancelled_while_the_tables_are_locked(
    django_database, small_shop, connect_raw, assert_nothing_left
) -> None:
    """Cancellation ends a leader that waits for a lock on the status tables."""
    asyncio.run(ainitialize())
    small_shop.run("0003_more", lambda connection: None)
    raw = connect_raw()
    with raw.transaction():
        raw.execute(f"LOCK {RUN_TABLE} IN SHARE ROW EXCLUSIVE MODE")

        async def main() -> None:
            task = asyncio.create_task(ainitialize())
            await until(
                lambda: django_database.backends(
                    "wait_event_type = 'Lock' AND query LIKE '%%INSERT %%django_safe_init_run%%'"
                )
            )
            await cancel(task)

        asyncio.run(main())
    assert_nothing_left()


def test_cancelled_after_the_end(django_database, small_shop) -> None:
    """A task is cancelled even if its thread finished first, and the run stays ready."""

    async def main() -> None:
        task = asyncio.create_task(ainitialize())
        await asyncio.sleep(0)
        [thread] = own_threads()
        thread.join()  # the loop has not processed its result yet
        await cancel(task)

    asyncio.run(main())
    assert [run["outcome"] for run in django_database.runs()] == ["ready"]


def test_wait_for(django_database, small_shop, session, assert_nothing_left) -> None:
    """`asyncio.wait_for` cancels `ainitialize` after its timeout."""
    assert AdvisoryLock(session).try_acquire()
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(ainitialize(), 0.3))
    session.close()
    assert_nothing_left()


def test_a_late_cancellation(
    django_database, small_shop, assert_nothing_left, monkeypatch
) -> None:
    """A statement that ended before its cancellation arrived causes no error."""

    def work(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(60)")

    small_shop.run("0003_sleep", work)
    cancel_safe = psycopg.Connection.cancel_safe

    def too_late(connection, **kwargs) -> None:
        cancel_safe(connection, **kwargs)
        raise psycopg.OperationalError("the connection is closed")

    monkeypatch.setattr(psycopg.Connection, "cancel_safe", too_late)

    async def main() -> None:
        task = asyncio.create_task(ainitialize())
        await until(lambda: django_database.backends(SLEEPING))
        await cancel(task)
        assert_nothing_left()

    asyncio.run(main())
