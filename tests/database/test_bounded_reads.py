"""No read of this package waits long for a lock of another session."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction

from django_safe_init import get_status, initialize
from django_safe_init.backends import bounded_reads
from django_safe_init.conf import get_settings
from django_safe_init.contrib.prometheus import SafeInitCollector
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE
from django_safe_init.core.step import StepDefinition
from django_safe_init.exceptions import WaitTimeout
from django_safe_init.initialization.plan import read_plan
from django_safe_init.management.commands import (
    safe_init_status,
    safe_init_unlock,
    safe_init_validate,
    safe_migrate,
)
from django_safe_init.privileged.status import pending_privileged
from django_safe_init.serving.background.poller import StatusPoller
from django_safe_init.validation import validate_database
from tests.database.test_admin import (
    RUNS,
    STEPS,
    Page,
    _logged_in,
    configure_admin,
    initialize_admin,
)
from tests.support import PATIENCE

TABLES = (RUN_TABLE, STEP_TABLE, "django_migrations")
#: Long enough for a busy machine; a read without a limit would hang.


@pytest.fixture
def lock_tables(django_database, connect_raw) -> Callable[..., None]:
    """Return a function that locks tables until the end of the test."""

    def lock(*tables: str) -> None:
        raw = connect_raw()
        raw.autocommit = False
        raw.execute(f"LOCK TABLE {', '.join(tables)}")

    return lock


@pytest.fixture
def bounded(in_background) -> Callable[[Callable[[], Any]], Any]:
    """Return a function that calls a read in a thread, and fails if it does not return."""
    return lambda read: in_background(read).result(PATIENCE)


@pytest.mark.parametrize("url", [RUNS, STEPS, f"{RUNS}1/"])
@pytest.mark.parametrize("tables", [(RUN_TABLE,), (STEP_TABLE,)])
@pytest.mark.parametrize("atomic", [False, True])
def test_admin(
    initialize_as, settings, lock_tables, bounded, url, tables, atomic
) -> None:
    """A page of the admin says that the tables are locked or missing."""
    configure_admin(settings)
    initialize_as("admin", initialize_admin)
    staff = _logged_in(is_staff=True)
    lock_tables(*tables)
    values = connections["default"].settings_dict
    values["ATOMIC_REQUESTS"] = atomic
    try:
        page = bounded(lambda: Page(staff, url))
    finally:
        values["ATOMIC_REQUESTS"] = False
    assert "cannot be read just now" in page.html


@contextmanager
def locked(path: Any) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("BEGIN EXCLUSIVE")
        yield


def test_sqlite(lite, shop, bounded) -> None:
    """On SQLite each wait for the file is a second, and Django's own limit returns."""
    connections["default"].settings_dict["OPTIONS"] = {"timeout": 3000}
    shop.write("0001_initial")
    initialize()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        assert cursor.fetchone() == (3_000_000,)
        with (
            locked(lite.file),
            pytest.raises(OperationalError, match="locked"),
            bounded_reads("default"),
        ):
            cursor.execute(f"SELECT * FROM {RUN_TABLE}")
        cursor.execute("PRAGMA busy_timeout")
        assert cursor.fetchone() == (3_000_000,)
    with locked(lite.file):
        assert bounded(get_status).state.value == "migrating"
    connections["default"].settings_dict["OPTIONS"] = {}


def test_the_limits_return(django_database) -> None:
    """An outer transaction gets its own limits back."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '7s'")
        with bounded_reads("default"):
            cursor.execute("SHOW lock_timeout")
            assert cursor.fetchone() == ("1s",)
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("7s",)


def test_another_engine(monkeypatch) -> None:
    """An engine without limits is read without one."""
    other = SimpleNamespace(vendor="oracle")
    monkeypatch.setattr("django_safe_init.backends.connections", {"default": other})
    with bounded_reads("default"):
        pass


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (safe_init_status.Command, {0, 3}),
        (safe_init_validate.Command, {0, 1, 3}),
        (safe_init_unlock.Command, {0}),
        (safe_migrate.Command, {3}),
    ],
)
def test_commands(
    django_database, small_shop, lock_tables, command_line, settings, command, code
) -> None:
    """Each command ends while all tables are locked."""
    initialize()
    settings.SAFE_INIT = {**settings.SAFE_INIT, "MAX_WAIT": 1}
    lock_tables(*TABLES)
    ended = command_line(command, command.__module__.rpartition(".")[2])
    assert ended.code in code


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    ("arguments", "codes"),
    [
        (["--plan", "--timeout", "1"], {0, 3}),
        (["--check", "--timeout", "1"], {1}),
        (["--plan", "--check"], {1, 3}),
        (["--plan", "--json", "--timeout", "1"], {0, 3}),
    ],
)
def test_plan_and_check(
    django_database,
    small_shop,
    raw_session,
    command_line,
    bounded,
    settings,
    table,
    arguments,
    codes,
) -> None:
    """The plan and the check of a locked database end with the time-out, and name the holder."""
    initialize()
    small_shop.write("0003_new")
    settings.SAFE_INIT = {**settings.SAFE_INIT, "MAX_WAIT": 1}
    raw_session.autocommit = False
    raw_session.execute(f"LOCK TABLE {table}")
    ended = bounded(
        lambda: command_line(safe_migrate.Command, "safe_migrate", *arguments)
    )
    assert ended.code in codes
    if table == "django_migrations":
        assert ended.code != 0
        output = ended.stdout + ended.stderr
        remedy = f"SELECT pg_terminate_backend({raw_session.info.backend_pid});"
        assert "django_migrations stayed locked by backend" in output
        assert remedy in output
        assert "LINE" not in output


def test_plan_waits(django_database, small_shop, raw_session, command_line) -> None:
    """The plan is printed once, as soon as the lock is released."""
    initialize()
    small_shop.write("0003_new")
    raw_session.autocommit = False
    raw_session.execute("LOCK TABLE django_migrations")
    timer = threading.Timer(2, raw_session.rollback)
    timer.start()
    ended = command_line(
        safe_migrate.Command, "safe_migrate", "--plan", "--timeout", "60"
    )
    timer.join()
    assert ended.code == 0
    assert ended.stdout.count("shop.0003_new") == 1


def test_plan_of_a_locked_file(lite, shop, command_line) -> None:
    """On SQLite the plan waits for the file until the time-out."""
    shop.write("0001_initial")
    initialize()
    shop.write("0002_new")
    with locked(lite.file):
        ended = command_line(
            safe_migrate.Command, "safe_migrate", "--plan", "--timeout", "1"
        )
    assert ended.code == 3
    assert "stayed locked" in ended.stderr


def test_a_plan_that_fails(django_database, small_shop) -> None:
    """An error that is not about a lock is raised as it is."""

    def fail() -> None:
        raise OperationalError("no")

    with pytest.raises(OperationalError, match="no"):
        read_plan("default", fail, None)


def test_metrics(django_database, small_shop, lock_tables, bounded) -> None:
    """A scrape and a poll return while all tables are locked."""
    initialize()
    lock_tables(*TABLES)
    families = {each.name: each for each in bounded(SafeInitCollector().collect)}
    assert "django_safe_init_up" in families
    poller = StatusPoller("default", None, print)
    assert bounded(lambda: poller._poll_once(None)).status.state.value == "migrating"


def test_validation(django_database, small_shop, lock_tables, bounded) -> None:
    """A validation reports locked tables."""
    initialize()
    lock_tables(*TABLES)
    with pytest.raises(WaitTimeout, match="locked at the moment"):
        bounded(lambda: validate_database("default", print))


def test_privileged_steps(django_database, small_shop, lock_tables, bounded) -> None:
    """A step whose check waits for a lock has no answer; the others are not affected."""
    initialize()

    def read(context: Any) -> bool:
        with context.connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM shop_product")
        return True

    def fail(context: Any) -> bool:
        with context.connection.cursor() as cursor:
            cursor.execute("SELECT no_such_column")
        return True

    done, broken = step("done", read), step("broken", fail)
    assert pending_privileged("default", (broken, done), get_settings()) == ["x.broken"]
    lock_tables("shop_product")
    answer = bounded(lambda: pending_privileged("default", (done,), get_settings()))
    assert answer is None


def step(name: str, is_done: Callable[[Any], bool]) -> StepDefinition:
    """Return a privileged step of an app `x`."""
    return SimpleNamespace(label=f"x.{name}", is_done=is_done)
