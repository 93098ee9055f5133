"""Following a leader on a real database server."""

from __future__ import annotations

import psycopg
import pytest

from django_safe_init.backends.postgresql.lock_keys import work_key
from django_safe_init.core.build import current_build
from django_safe_init.core.records import RUN_TABLE, leader_name
from django_safe_init.core.states import State
from django_safe_init.exceptions import DatabaseUnreachable, LeaderFailed, WaitTimeout
from django_safe_init.initialization import wait_log
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from tests.support import wait_until


class Waiter:
    """A thread that initializes while another session leads."""

    def __init__(self, in_background, **options) -> None:
        self.lines: list[str] = []
        task = MigrateTask(
            options.pop("migrate", lambda: None), "test", report=self.lines.append
        )
        self.initializer = Initializer(InitializationOptions(task, **options))
        self._thread = in_background(self.initializer.run)
        self.result = self._thread.result


def test_ready(leader, in_background, django_database) -> None:
    """A follower waits without a transaction, and is ready as soon as the leader's run ends."""
    waiter = Waiter(in_background)
    wait_until(lambda: waiter.lines)
    [backend] = django_database.followers()
    # While it waits; not while it reads the leader's row.
    pid = backend["pid"]
    wait_until(
        lambda: django_database.backends(f"backend_xmin IS NULL AND pid = {pid}")
    )
    finish(leader, django_database)
    outcome = waiter.result()
    assert (outcome.role, outcome.run, outcome.applied) == (
        "follower",
        leader.run_id,
        (),
    )
    assert outcome.waited_seconds > 0
    assert waiter.lines[0].startswith("waiting for ")


def finish(leader, database) -> None:
    """Record everything that this build knows, end the leader's run and release its lock."""
    database.rows("CREATE TABLE IF NOT EXISTS django_migrations (app text, name text)")
    for name in current_build().migrations:
        database.rows("INSERT INTO django_migrations VALUES (%s, %s)", *name.split("."))
    leader.finish_run("ready", State.READY)
    leader.session.lock.release()


def test_a_failure(leader, in_background, django_database) -> None:
    """A follower raises `LeaderFailed` with the leader's error."""
    waiter = Waiter(in_background)
    wait_until(lambda: waiter.lines)
    leader.finish_run("failed", State.ERROR, "shop.0002_sale: ValueError: no")
    leader.session.lock.release()
    with pytest.raises(LeaderFailed, match=r"failed: shop\.0002_sale: ValueError: no"):
        waiter.result()


def test_a_dead_leader_is_replaced(leader, in_background, django_database) -> None:
    """A follower leads after the leader's session has ended."""
    waiter = Waiter(in_background, migrate=lambda: run_migrate("default"))
    wait_until(lambda: waiter.lines)
    leader.session.close()
    assert waiter.result().role == "leader"
    assert [run["outcome"] for run in django_database.runs()] == ["abandoned", "ready"]


def test_the_followers_connection_is_ended(
    leader, in_background, django_database
) -> None:
    """A follower whose connection is terminated opens a new one."""
    waiter = Waiter(in_background)
    [backend] = wait_until(lambda: waiter.lines and django_database.followers())
    django_database.rows("SELECT pg_terminate_backend(%s, 5000)", backend["pid"])
    wait_until(lambda: django_database.followers())
    finish(leader, django_database)
    assert waiter.result().role == "follower"


def test_external(leader, in_background, django_database) -> None:
    """In mode "external" a process waits until its build is ready, with or without a leader."""
    waiter = Waiter(in_background, mode="external")
    wait_until(lambda: waiter.lines)
    finish(leader, django_database)
    assert waiter.result().role == "follower"


def test_it_gives_up_in_time(leader, in_background) -> None:
    """After the timeout the error names the leader, its run and the command that ends it."""
    waiter = Waiter(in_background, timeout=0.5)
    with pytest.raises(WaitTimeout) as caught:
        waiter.result()
    text = str(caught.value)
    assert text.startswith("Gave up after 0.5 s. waiting for ")
    assert f"the leader {leader_name()} of run {leader.run_id}, for " in text
    pid = leader.session.handshake_pid
    assert text.endswith(
        ". To end the leader, by one of these:\n"
        "    python manage.py safe_init_unlock\n"
        f"    SELECT pg_terminate_backend({pid});"
    )


def test_it_gives_up_without_progress(leader, in_background, settings) -> None:
    """A follower gives up after WAIT_TIMEOUT without progress."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "WAIT_TIMEOUT": 0.3}
    with pytest.raises(WaitTimeout, match=r"Gave up: no progress for 0\.3 s\."):
        Waiter(in_background).result()


@pytest.mark.parametrize("mode", ["self", "external"])
def test_a_locked_status_table(leader, in_background, raw_session, mode) -> None:
    """A follower whose status tables are locked gives up at its timeout."""
    raw_session.execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    waiter = Waiter(in_background, timeout=0.5, mode=mode)
    with pytest.raises(WaitTimeout, match="locked"):
        waiter.result()


@pytest.mark.parametrize("mode", ["self", "external"])
def test_tables_that_are_locked_at_first(
    leader, in_background, raw_session, django_database, mode
) -> None:
    """A follower that starts while the status tables are locked reports the lock and waits."""
    raw_session.execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    waiter = Waiter(in_background, mode=mode)
    wait_until(lambda: waiter.lines)
    assert waiter.lines == [
        "The status tables are locked at the moment, probably by a migration."
    ]
    raw_session.execute("COMMIT")
    finish(leader, django_database)
    assert waiter.result().run == leader.run_id


def test_an_orphan_that_locks_the_tables(
    leader, in_background, raw_session, django_database
) -> None:
    """A follower replaces a dead leader whose backend still locks the status tables."""
    waiter = Waiter(in_background, migrate=lambda: run_migrate("default"))
    wait_until(lambda: waiter.lines)
    raw_session.execute("SELECT pg_advisory_lock_shared(%s)", [work_key()])
    raw_session.execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    leader.session.close()
    assert waiter.result().role == "leader"
    with pytest.raises(psycopg.OperationalError):
        raw_session.execute("COMMIT")


def test_a_table_that_is_locked_later(
    leader, in_background, raw_session, django_database
) -> None:
    """A follower continues to wait when the status tables are locked later."""
    waiter = Waiter(in_background, timeout=30)
    wait_until(lambda: waiter.lines)
    raw_session.execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    wait_until(lambda: django_database.followers() and _is_blocked(django_database))
    wait_until(lambda: not _is_blocked(django_database))
    raw_session.execute("COMMIT")
    finish(leader, django_database)
    assert waiter.result().role == "follower"


def _is_blocked(database) -> bool:
    return bool(database.backends("wait_event_type = 'Lock'"))


def test_a_table_that_stays_locked(leader, in_background, raw_session) -> None:
    """A follower gives up at its timeout if the status tables stay locked."""
    waiter = Waiter(in_background, timeout=1)
    wait_until(lambda: waiter.lines)
    raw_session.execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    with pytest.raises(WaitTimeout):
        waiter.result()


def test_the_server_goes_away(
    django_database, log_in_as, spare_server, in_background, settings, small_shop
) -> None:
    """A follower raises `DatabaseUnreachable` if the database server does not come back."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "CONNECT_ATTEMPTS": 1}
    log_in_as(HOST=spare_server.host, PORT=spare_server.port, NAME="postgres")
    waiter = Waiter(in_background, mode="external")
    wait_until(lambda: waiter.lines)
    spare_server.stop("immediate")
    try:
        with pytest.raises(DatabaseUnreachable):
            waiter.result()
    finally:
        spare_server.start()


def test_blockers_of_the_leader(
    leader, session, connect_raw, in_background, monkeypatch, settings
) -> None:
    """A follower that gives up names the blocker of the leader and the SQL that ends it."""
    monkeypatch.setattr(wait_log, "_SECONDS_BETWEEN_DIAGNOSES", 0.0)
    settings.SAFE_INIT = {**settings.SAFE_INIT, "WAIT_TIMEOUT": 1}
    report, working = connect_raw(application_name="report"), connect_raw()
    report.execute("CREATE TABLE busy ()")
    report.execute("BEGIN; SELECT * FROM busy")
    working.execute("SELECT pg_advisory_lock_shared(%s)", [work_key()])
    altering = in_background(lambda: working.execute("DROP TABLE busy"))
    with pytest.raises(WaitTimeout) as caught:
        Waiter(in_background).result()
    text = str(caught.value)
    assert "DROP TABLE busy; blocked by pid" in text
    assert "To end the session that blocks it, or the leader:\n" in text
    assert f"\n    SELECT pg_terminate_backend({report.info.backend_pid});\n" in text
    report.execute("COMMIT")
    altering.result()
