"""A statement's progress as PostgreSQL reports it, and its blockers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command

from django_safe_init import get_status, initialize, track
from django_safe_init.backends.postgresql import statement_progress
from django_safe_init.backends.postgresql.statement_progress import StatementProgress
from django_safe_init.core.progress import ProgressUpdate
from django_safe_init.exceptions import LockLost
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from django_safe_init.management.commands.safe_init_status import Command as Status
from tests.database.conftest import INDEX
from tests.support import PATIENCE, wait_until

#: A slow function, for an index that takes time to build.
SLOW = """
    CREATE FUNCTION slow(value text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(0.1); RETURN value; END'
"""
#: Rows so large that a page has one or two.
ROWS = """
    INSERT INTO shop_product (name)
    SELECT repeat(md5(n::text), 120) FROM generate_series(1, {}) AS n
"""


@pytest.fixture
def shop_with_rows(django_database, small_shop) -> Callable[[int], Any]:
    """Return a function that fills the table with large rows and creates the slow function."""

    def fill(count: int) -> Any:
        initialize()
        django_database.rows("ALTER TABLE shop_product ALTER name SET STORAGE PLAIN")
        django_database.rows(SLOW)
        django_database.rows(ROWS.format(count))
        return small_shop

    return fill


def read_item() -> tuple[Any, ...]:
    run = get_status().run
    assert run is not None
    return run.item_message, run.item_done, run.item_total


def wait_for_item(prefix: str) -> tuple[Any, ...]:
    """Wait until the run's item message starts with the prefix; return message, done and total."""
    return wait_until(
        lambda: found if str((found := read_item())[0]).startswith(prefix) else ()
    )


def test_an_index_that_waits(
    django_database, small_shop, connect_raw, in_background
) -> None:
    """CREATE INDEX CONCURRENTLY reports the transactions that it waits for, and the blocker."""
    initialize()
    small_shop.write("0003_index", INDEX, atomic=False)
    writer = connect_raw(application_name="writer")
    writer.execute("BEGIN; INSERT INTO shop_product (name) VALUES ('x')")
    lines: list[str] = []
    migration = in_background(lambda: run(lines.append))
    phase = "CREATE INDEX CONCURRENTLY, waiting for writers before build"
    assert wait_for_item(phase) == (phase, 0, 1)
    operation = "operation 1 of 1, AddIndexConcurrently product.product_name"
    expected = f"migrating 1/1 shop.0003_index: {operation}: {phase} 0/1"
    assert get_status().message == expected
    assert get_status().progress == 0
    pid = writer.info.backend_pid
    wait_until(lambda: lines)
    assert lines[0].startswith(
        f"shop.0003_index: {operation} is blocked by pid {pid} (role postgres, writer, from "
        "127.0.0.1, idle in transaction for"
    )
    assert lines[0].endswith(f"To end it: SELECT pg_terminate_backend({pid});")
    writer.execute("COMMIT")
    migration.result()
    assert len(lines) == 1
    assert read_item() == (None, None, None)


def run(report: Callable[[str], None]) -> Any:
    task = MigrateTask(
        lambda: call_command("migrate", verbosity=0), "test", report=report
    )
    return Initializer(InitializationOptions(task)).run()


def test_an_index_that_is_built(shop_with_rows, in_background) -> None:
    """CREATE INDEX reports the blocks that it has read."""
    shop = shop_with_rows(60)
    shop.write(
        "0003_index", "migrations.RunSQL('CREATE INDEX ON shop_product (slow(name))')"
    )
    migration = in_background(initialize)
    _, done, total = wait_for_item("CREATE INDEX, building index: scanning table")
    assert 0 < done < total
    assert total >= 30
    migration.result()


def test_vacuum_full(shop_with_rows, in_background) -> None:
    """VACUUM FULL reports its phase."""
    shop = shop_with_rows(40)
    shop.write(
        "0003_vacuum",
        "migrations.RunSQL('CREATE INDEX ON shop_product (left(slow(name), 3))')",
    )
    shop.write(
        "0004_vacuum", "migrations.RunSQL('VACUUM FULL shop_product')", atomic=False
    )
    migration = in_background(initialize)
    assert wait_for_item("VACUUM FULL, rebuilding index")[2] is None
    migration.result()


def test_copy(django_database, small_shop, in_background) -> None:
    """COPY reports rows if the number of bytes is unknown."""
    copied, go_on = threading.Event(), threading.Event()

    def copy(connection: Any) -> None:
        statement = "COPY shop_product (name) FROM STDIN"
        with connection.cursor() as cursor, cursor.copy(statement) as rows:
            for _ in range(5000):
                rows.write_row(["x" * 50])
            copied.set()
            assert go_on.wait(PATIENCE)

    small_shop.run("0003_copy", copy)
    migration = in_background(initialize)
    assert copied.wait(PATIENCE)
    message, done, total = wait_for_item("COPY FROM")
    assert (message, total) == ("COPY FROM, rows", None)
    assert 0 < done <= 5000
    go_on.set()
    migration.result()


def test_a_statement_inside_a_loop(
    django_database, small_shop, connect_raw, in_background
) -> None:
    """A statement inside a loop replaces the loop's message and keeps its percentage."""
    initialize()
    writer = connect_raw()
    writer.execute("BEGIN; INSERT INTO shop_product (name) VALUES ('x')")

    def build(connection: Any) -> None:
        for number in track(range(2), message="indexes"):
            if number == 1:
                with connection.cursor() as cursor:
                    cursor.execute("CREATE INDEX CONCURRENTLY ON shop_product (name)")

    small_shop.run("0003_index", build, atomic=False)
    migration = in_background(initialize)
    assert wait_for_item("CREATE INDEX")[1:] == (0, 1)
    assert get_status().progress == 50
    writer.execute("COMMIT")
    migration.result()


def test_blockers_in_the_status(
    django_database, small_shop, connect_raw, in_background, command_line
) -> None:
    """`safe_init_status` names the leader's blockers in text and JSON."""
    initialize()
    small_shop.write("0003_stock", "migrations.RunSQL('LOCK TABLE shop_product')")
    raw = connect_raw(application_name="report")
    raw.execute("BEGIN; TABLE shop_product")
    migration = in_background(initialize)
    pid = raw.info.backend_pid
    name = "safe_init_status"
    document = wait_until(
        lambda: (
            found
            if (found := command_line(Status, name, "--json").json)["blockers"]
            else None
        )
    )
    [blocker] = document["blockers"]
    assert (blocker["pid"], blocker["role"], blocker["application"]) == (
        pid,
        "postgres",
        "report",
    )
    assert blocker["query"] == "BEGIN; TABLE shop_product"
    assert f"LOCK TABLE shop_product; blocked by pid {pid} (" in document["activity"]
    text = command_line(Status, name).stdout
    assert "  statement: running for " in text
    assert (
        f"blocked by pid {pid} (role postgres, report, from 127.0.0.1, idle in transaction for"
        in text
    )
    raw.execute("COMMIT")
    migration.result()
    document = command_line(Status, name, "--json").json
    assert (document["activity"], document["blockers"]) == (None, [])


class NoConnections:
    """A stand-in for the connections of a run."""

    backend_pid = 0


def test_one_query_per_heartbeat(session, recorder, monkeypatch) -> None:
    """Between two heartbeats the last progress is returned, unless the step has ended."""
    clock = [1000.0]
    monkeypatch.setattr(statement_progress.time, "monotonic", lambda: clock[0])
    progress = StatementProgress(session, NoConnections(), recorder, print)
    assert progress.read() is None
    recorder.progress.statement = ProgressUpdate(1, 2, "CREATE INDEX")
    clock[0] += 0.5
    assert progress.read() == ProgressUpdate(1, 2, "CREATE INDEX")
    recorder.progress.clear()
    assert progress.read() is None
    recorder.progress.statement = ProgressUpdate(1, 2, "CREATE INDEX")
    clock[0] += 1.5
    assert progress.read() is None


def test_the_leader_session_is_gone(session, recorder) -> None:
    """`read` raises `LockLost` if the leader session is lost."""
    progress = StatementProgress(session, NoConnections(), recorder, print)
    session.close()
    with pytest.raises(LockLost):
        progress.read()
