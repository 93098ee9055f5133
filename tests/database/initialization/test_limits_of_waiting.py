"""The time-out limits every wait of an initialization, and its error names who is waited for."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import OperationalError, connections

from django_safe_init import initialize
from django_safe_init.backends.base.lock import LockWaitTimeout
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_holders import locked_tables
from django_safe_init.backends.postgresql.lock_keys import (
    leader_key,
    privileged_key,
    work_key,
)
from django_safe_init.backends.postgresql.reader import PostgresReader
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.sqlite3 import session as lite_session_module
from django_safe_init.core.build import Build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE
from django_safe_init.exceptions import DatabaseUnreachable, WaitTimeout
from django_safe_init.initialization import initializer
from django_safe_init.initialization.follower import Follower
from django_safe_init.initialization.initializer import retry_while_busy
from django_safe_init.initialization.types import Decision
from django_safe_init.management.commands import migrate, safe_init_status, safe_migrate
from django_safe_init.status import get_status

HOLDER = r"backend {pid} \(role stranger, psql, from 127\.0\.0\.1\)"


@pytest.fixture
def stranger(django_database, connect_raw, new_role) -> Any:
    """Return a session of a role that may only connect."""
    role = new_role("stranger")
    return connect_raw(user=role, application_name="psql")


def named(session: Any) -> str:
    """Return the pattern that names the session."""
    return HOLDER.format(pid=session.info.backend_pid)


@pytest.mark.parametrize("mode", ["exclusive", "shared"])
def test_the_work_key(
    django_database, small_shop, stranger, log_in_as, new_role, mode
) -> None:
    """A new leader waits for the holder of the work key until the time-out."""
    suffix = "_shared" if mode == "shared" else ""
    stranger.execute(f"SELECT pg_advisory_lock{suffix}(%s)", [work_key()])
    owner = new_role("owner")
    django_database.rows(
        f"GRANT ALL ON SCHEMA public TO {owner}; GRANT pg_read_all_stats TO {owner}"
    )
    log_in_as(USER=owner)
    with pytest.raises(WaitTimeout, match=named(stranger)):
        initialize(timeout=0.5)


@pytest.mark.parametrize("command", [safe_migrate.Command, migrate.Command])
def test_the_leader_lock(
    django_database, small_shop, stranger, command_line, settings, command
) -> None:
    """A follower names the session that holds the leader lock, and is no leader."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "MAX_WAIT": 0.5}
    stranger.execute("SELECT pg_advisory_lock(%s)", [leader_key()])
    ended = command_line(command, command.__module__.rpartition(".")[2])
    assert ended.code == 3
    assert re.search(
        f"waiting for a leader that has opened no run yet: {named(stranger)}",
        ended.stderr,
    )
    assert re.search(
        f"Gave up after .*{named(stranger)}.*\n    python manage.py safe_init_unlock\n",
        ended.stderr,
    )


def test_the_status_names_the_holder(
    django_database, small_shop, stranger, command_line
) -> None:
    """The status names the session that holds the leader lock without a run."""
    stranger.execute("SELECT pg_advisory_lock(%s)", [leader_key()])
    assert re.search(named(stranger), get_status().message)
    ended = command_line(safe_init_status.Command, "safe_init_status")
    assert re.search(f"the leader lock is held by {named(stranger)}", ended.stdout)


def test_an_abandoned_run_and_a_stranger(django_database, leader, stranger) -> None:
    """A stranger that holds the lock is not taken for the leader of an open run."""
    leader.session.lock.release()
    stranger.execute("SELECT pg_advisory_lock(%s)", [leader_key()])
    assert re.search(named(stranger), get_status().message)
    with pytest.raises(WaitTimeout, match=named(stranger)):
        initialize(timeout=0.5)


@pytest.mark.parametrize("mode", ["self", "external"])
@pytest.mark.parametrize("table", [RUN_TABLE, STEP_TABLE, "django_migrations"])
def test_a_locked_table(django_database, small_shop, raw_session, table, mode) -> None:
    """A start waits for a locked table until the time-out, and names its holder."""
    initialize()
    raw_session.autocommit = False
    raw_session.execute(f"LOCK TABLE {table}")
    small_shop.write("0003_new")
    with pytest.raises(WaitTimeout) as caught:
        initialize(timeout=0.5, mode=mode)
    if (table, mode) == (STEP_TABLE, "external"):
        return  # a build without steps is followed without that table
    pid, text = raw_session.info.backend_pid, str(caught.value)
    assert re.search(
        rf"The table \S*{table} stayed locked by backend {pid} \(role", text
    )
    assert f"To end that: SELECT pg_terminate_backend({pid});" in text
    assert "LINE" not in text


def test_a_reader_of_a_table_is_not_named(
    django_database, small_shop, raw_session, connect_raw
) -> None:
    """A session whose lock blocks no reader is not named to one."""
    initialize()
    innocent = connect_raw()
    innocent.autocommit = False
    innocent.execute(f"SELECT * FROM {STEP_TABLE}")
    raw_session.autocommit = False
    raw_session.execute(f"LOCK TABLE {RUN_TABLE}")
    small_shop.write("0003_new")
    with pytest.raises(WaitTimeout) as caught:
        initialize(timeout=0.5)
    assert f"backend {innocent.info.backend_pid}" not in str(caught.value)


def test_a_table_that_is_free_again() -> None:
    """A holder that cannot be seen is a session that has ended."""
    assert locked_tables([]).endswith("locked by a session that has ended since.")


@pytest.mark.parametrize("limit", ["MAX_WAIT", "WAIT_TIMEOUT"])
def test_a_leader_lock_without_a_visible_holder(
    django_database, small_shop, stranger, settings, monkeypatch, limit
) -> None:
    """The campaigns for a lock that no query shows are limited, and have pauses."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, limit: 1}
    attempts: list[None] = []
    real = AdvisoryLock.try_acquire

    def try_acquire(self: AdvisoryLock) -> bool:
        attempts.append(None)
        return real(self)

    monkeypatch.setattr(AdvisoryLock, "try_acquire", try_acquire)
    monkeypatch.setattr(Follower, "follow", lambda self: Decision.CAMPAIGN)
    stranger.execute("SELECT pg_advisory_lock(%s)", [leader_key()])
    with pytest.raises(WaitTimeout, match="no query shows its holder"):
        initialize()
    assert len(attempts) <= 20


def test_a_table_that_is_locked_under_the_lock(
    django_database, session, recorder, raw_session
) -> None:
    """A leader waits until its deadline to open a run, and names the holder of the table."""
    build, deadline = Build(frozenset(), "x"), Deadline(0.2)
    session.rows("SET lock_timeout = '50ms'")
    raw_session.autocommit = False
    raw_session.execute(f"LOCK TABLE {RUN_TABLE}, {STEP_TABLE}")
    holder = rf"stayed locked by backend {raw_session.info.backend_pid} \(role"
    late = PostgresRecorder(session, build, None, None, deadline)
    with pytest.raises(LockWaitTimeout, match=holder):
        late.open_run("test")
    reader = PostgresReader(session, build, None)
    reader.deadline = deadline
    with pytest.raises(LockWaitTimeout, match=holder):
        reader.completed_steps()


def test_the_end_of_a_run(django_database, session, recorder, raw_session) -> None:
    """A run whose time is over still records its end, a few seconds later."""
    deadline = Deadline(0)
    late = PostgresRecorder(
        session, Build(frozenset(), "x"), None, lambda x: x, deadline
    )
    late.open_run("test")
    raw_session.autocommit = False
    raw_session.execute(f"LOCK TABLE {RUN_TABLE}")
    timer = threading.Timer(0.7, raw_session.rollback)
    timer.start()
    assert late.finish_run("ready", late.state) == "ready"
    timer.join()


def test_a_lock_that_a_migration_needs(
    django_database, small_shop, raw_session, settings
) -> None:
    """The pauses between the attempts of DDL_ATTEMPTS end with the time-out."""
    initialize()
    settings.SAFE_INIT = {
        **settings.SAFE_INIT,
        "DDL_LOCK_TIMEOUT": 0.1,
        "DDL_ATTEMPTS": 10_000,
    }
    field = "models.IntegerField(default=0)"
    small_shop.write("0003_stock", f"migrations.AddField('product', 'stock', {field})")
    raw_session.autocommit = False
    raw_session.execute("LOCK TABLE shop_product IN ACCESS SHARE MODE")
    pid = raw_session.info.backend_pid
    with pytest.raises(
        LockWaitTimeout, match=rf"pid {pid} \(role .*, from 127"
    ) as caught:
        initialize(timeout=1)
    assert f"pg_terminate_backend({pid})" in str(caught.value)
    assert caught.value.exit_code == 3
    assert django_database.newest_run()["outcome"] == "transient"


def test_a_migration_is_not_limited(django_database, small_shop, monkeypatch) -> None:
    """A running migration may take longer than the time-out."""

    def outlast(connection: Any) -> None:
        monkeypatch.setattr(Deadline, "passed", lambda deadline: True)
        monkeypatch.setattr(Deadline, "clip", lambda deadline, seconds: 0.0)

    small_shop.run("0003_long", outlast)
    assert initialize(timeout=60).result == "ready"


def test_system_checks(small_shop) -> None:
    """A check for which the server has no connection is repeated until the deadline."""

    def check() -> None:
        raise OperationalError("sorry, too many clients already")

    lines: list[str] = []
    with pytest.raises(DatabaseUnreachable, match="too many clients"):
        retry_while_busy(check, "default", lines.append, Deadline(0.2))
    assert lines


def test_privileged_work(django_database, connect_raw) -> None:
    """The holder of the lock of the privileged phase is named."""
    from django_safe_init.privileged.runner import _holders

    session = connect_raw(application_name="psql")
    session.execute("SELECT pg_advisory_lock(%s)", [privileged_key()])
    pid = session.info.backend_pid
    connections["default"].ensure_connection()
    text = _holders(connections["default"], privileged_key())
    assert text == f"backend {pid} (role postgres, psql, from 127.0.0.1)"
    session.close()
    assert _holders(connections["default"], 1) == "a session that has ended since"


@pytest.fixture
def locked_file(lite, small_shop) -> Iterator[Callable[[], None]]:
    """Yield a function that locks the SQLite file until the end of the test."""
    with closing(
        sqlite3.connect(lite.file, isolation_level=None, check_same_thread=False)
    ) as raw:
        yield lambda: raw.execute("BEGIN IMMEDIATE")


def test_a_locked_file(lite, locked_file, monkeypatch) -> None:
    """A leader waits for another writer of an SQLite file until its time-out."""
    monkeypatch.setattr(lite_session_module, "MIN_WRITE_TIMEOUT_SECONDS", 0.1)
    locked_file()
    with pytest.raises(WaitTimeout, match="longer than this process may wait"):
        initialize(timeout=0.3)


@pytest.mark.parametrize("supported", [True, False])
def test_the_checks_of_another_engine(monkeypatch, supported) -> None:
    """On an engine without a leader lock, no error is known to pass with time."""
    features = SimpleNamespace(is_supported=supported)
    monkeypatch.setattr(initializer, "get_features", lambda alias: features)

    def check() -> None:
        raise OperationalError("sorry, too many clients already")

    lines: list[str] = []
    with pytest.raises(DatabaseUnreachable, match="too many clients"):
        retry_while_busy(check, "default", lines.append, Deadline(0.2))
    assert bool(lines) is supported
