"""`ainitialize` and `aget_status`: threads of their own, a loop that ticks, nothing left behind."""

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
from tests.support import wait_until

SLEEPING = "state = 'active' AND query LIKE '%%pg_sleep%%'"
TICK = 0.01


class Ticks:
    """What an event loop does beside: it notes when it ticked."""

    def __init__(self) -> None:
        self.at: list[float] = []

    async def run(self) -> None:
        while True:
            self.at.append(time.monotonic())
            await asyncio.sleep(TICK)

    @property
    def longest_pause(self) -> float:
        return max(b - a for a, b in zip(self.at, self.at[1:], strict=False))


@asynccontextmanager
async def ticking() -> AsyncIterator[Ticks]:
    ticks = Ticks()
    task = asyncio.create_task(ticks.run())
    try:
        yield ticks
    finally:
        task.cancel()


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Return when the condition is true; the loop goes on meanwhile."""
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
    """After a cancelled task: no thread, lock or connection, and the run is closed."""

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


async def cancel(task: asyncio.Task) -> float:
    """Cancel the task and wait for its end; returns how long that took."""
    told = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - told


# Side by side


def test_ten_at_once(django_database, small_shop, session) -> None:
    """Ten wait on ten backends at the same moment while the loop ticks; then one leads."""
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
            return await asyncio.gather(*tasks), ticks

    outcomes, ticks = asyncio.run(main())
    assert sorted(each.role for each in outcomes) == ["follower"] * 9 + ["leader"]
    assert {each.result for each in outcomes} == {"ready"}
    assert ticks.longest_pause < 1
    assert len(django_database.applied_once()) == 2
    assert [run["outcome"] for run in django_database.runs()] == ["ready"]
    assert own_threads() == []


def test_more_than_an_executor_has_threads(django_database, small_shop) -> None:
    """Nobody waits for a thread of a pool: the default executor has none left, too."""
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
    """`aget_status` tells what `get_status` tells."""

    async def main():
        before = await aget_status()
        await ainitialize("default", timeout=20)
        return before.state, (await aget_status()).state

    assert asyncio.run(main()) == (State.UNINITIALIZED, State.READY)


def test_errors(django_database, small_shop, log_in_as, settings) -> None:
    """What the blocking calls raise is raised."""
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
    """The thread sees the context variables of the task; what it sets stays its own."""
    seen = []

    def look(connection) -> None:
        seen.append(release.get())
        release.set("theirs")

    small_shop.run("0003_look", look)

    async def main() -> str:
        release.set("ours")
        await ainitialize()
        return release.get()

    assert asyncio.run(main()) == "ours"
    assert seen == ["ours"]


def test_connections_are_closed(django_database, small_shop) -> None:
    """What the thread has opened is closed, also where this package is off."""
    asyncio.run(ainitialize(mode="off"))
    wait_until(lambda: not django_database.backends())
    assert len(django_database.applied_once()) == 2


def test_another_initialization_is_no_part_of_a_run(
    django_database, small_shop
) -> None:
    """What an initializer does that starts while another leads is not marked as that one's."""
    inside, go = threading.Event(), threading.Event()

    def wait(connection) -> None:
        inside.set()
        assert go.wait(20)

    small_shop.run("0003_wait", wait)

    def look() -> bool:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            [pid] = cursor.fetchone()
            return pid in django_database.holders(work_key())

    async def main() -> bool:
        task = asyncio.create_task(ainitialize())
        await until(inside.is_set)
        other = InitializationThread(look, CancellationToken())
        other.start()
        marked = await asyncio.wrap_future(other.future)
        go.set()
        await task
        return marked

    assert asyncio.run(main()) is False


# Cancelled


def test_a_cancelled_follower(
    django_database, small_shop, session, assert_nothing_left
) -> None:
    """A follower that is cancelled ends soon; its connection is closed."""
    assert AdvisoryLock(session).try_acquire()

    async def main() -> float:
        task = asyncio.create_task(ainitialize())
        await until(
            lambda: django_database.backends("query LIKE '%%LISTEN%%'"),
        )
        return await cancel(task)

    assert asyncio.run(main()) < 2
    session.close()
    assert_nothing_left()


@pytest.mark.parametrize("atomic", [True, False])
def test_a_cancelled_leader(
    django_database, small_shop, assert_nothing_left, atomic
) -> None:
    """The running statement is cancelled, the run closed as interrupted, the lock free."""

    def work(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO shop_product (name) SELECT pg_sleep(60)::text")

    small_shop.run("0003_sleep", work, atomic=atomic)

    async def main() -> float:
        async with ticking() as ticks:
            task = asyncio.create_task(ainitialize())
            await until(lambda: django_database.backends(SLEEPING))
            took = await cancel(task)
            assert ticks.longest_pause < 1
            assert_nothing_left()
            return took

    assert asyncio.run(main()) < 2
    [run] = django_database.runs()
    assert (run["outcome"], run["state"]) == ("interrupted", "error")
    assert len(django_database.applied_once()) == 2
    assert django_database.value("SELECT count(*) FROM shop_product") == 0


def test_a_cancelled_migration_in_python(
    django_database, small_shop, assert_nothing_left
) -> None:
    """A migration in Python is ended at its next query, also if it catches everything."""
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
    """Python that makes no query ends first, however often the task is cancelled; no record."""
    inside, go = threading.Event(), threading.Event()

    def work(connection) -> None:
        inside.set()
        assert go.wait(20)

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
    """A thread that was started meanwhile keeps its connection, and can use it."""
    asked, ask_again = threading.Event(), threading.Event()
    started = []

    def outlive() -> int:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT 1")
            asked.set()
            assert ask_again.wait(20)
            cursor.execute("SELECT 2")
            return cursor.fetchone()[0]

    def work(connection) -> None:
        started.append(in_background(outlive))
        assert asked.wait(20)
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
    """What Django does beside its cursors, such as COMMIT, is cancelled too."""
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
            lambda: django_database.backends("state = 'active' AND query = 'COMMIT'")
        )
        await cancel(task)
        assert_nothing_left()

    asyncio.run(main())
    assert django_database.newest_run()["outcome"] == "interrupted"
    assert len(django_database.applied_once()) == 2


def test_cancelled_while_the_server_is_away(
    django_database, small_shop, log_in_as, assert_nothing_left
) -> None:
    """A pause between two attempts to connect ends, too."""
    log_in_as(PORT="1")

    async def main() -> float:
        task = asyncio.create_task(ainitialize())
        await until(own_threads)
        return await cancel(task)

    assert asyncio.run(main()) < 2
    assert_nothing_left()


def test_cancelled_while_the_tables_are_locked(
    django_database, small_shop, connect_raw, assert_nothing_left
) -> None:
    """So does the patience of a leader whose tables somebody has locked."""
    asyncio.run(ainitialize())
    small_shop.run("0003_more", lambda connection: None)
    raw = connect_raw()
    with raw.transaction():
        raw.execute(f"LOCK {RUN_TABLE} IN SHARE ROW EXCLUSIVE MODE")

        async def main() -> float:
            task = asyncio.create_task(ainitialize())
            await until(
                lambda: django_database.backends(
                    "wait_event_type = 'Lock' AND query LIKE '%%INSERT INTO django_safe_init_run%%'"
                )
            )
            return await cancel(task)

        assert asyncio.run(main()) < 2
    assert_nothing_left()


def test_cancelled_when_all_is_done(django_database, small_shop) -> None:
    """A cancelled task is cancelled, also if its thread was quicker; the work stays done."""

    async def main() -> None:
        task = asyncio.create_task(ainitialize())
        await asyncio.sleep(0)
        [thread] = own_threads()
        thread.join()  # the loop has not heard of it yet
        await cancel(task)

    asyncio.run(main())
    assert [run["outcome"] for run in django_database.runs()] == ["ready"]


def test_a_time_out(django_database, small_shop, session, assert_nothing_left) -> None:
    """`asyncio.wait_for` works as with everything else."""
    assert AdvisoryLock(session).try_acquire()
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(ainitialize(), 0.3))
    session.close()
    assert_nothing_left()


def test_a_closed_connection_has_nothing_to_cancel(
    django_database, small_shop, assert_nothing_left, monkeypatch
) -> None:
    """A statement that has ended before its cancellation came is no error."""

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
