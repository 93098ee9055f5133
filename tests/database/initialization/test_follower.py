"""Following on a real server: woken at once, never in the way, scarce slots left alone."""

from __future__ import annotations

import psycopg
import pytest

from django_safe_init.backends.postgresql.lock_keys import work_key
from django_safe_init.core.build import current_build
from django_safe_init.core.records import RUN_TABLE
from django_safe_init.core.states import State
from django_safe_init.exceptions import DatabaseUnreachable, LeaderFailed, WaitTimeout
from django_safe_init.initialization import wait_log
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from tests.support import wait_until


class Waiting:
    """A process, as a thread, that initializes while somebody else leads."""

    def __init__(self, in_background, **request) -> None:
        self.lines: list[str] = []
        work = MigrateTask(
            request.pop("migrate", lambda: None), "test", report=self.lines.append
        )
        self.initializer = Initializer(InitializationOptions(work, **request))
        self._thread = in_background(self.initializer.run)
        self.result = self._thread.result


def test_it_waits_and_is_woken(leader, in_background, django_database) -> None:
    """A follower waits without a transaction, hears of the end at once, and is ready."""
    waiting = Waiting(in_background)
    [backend] = wait_until(lambda: django_database.followers())
    wait_until(lambda: waiting.lines)
    [backend] = django_database.followers()
    assert backend["backend_xmin"] is None
    finish(leader, django_database)
    outcome = waiting.result()
    assert (outcome.role, outcome.run, outcome.applied) == (
        "follower",
        leader.run_id,
        (),
    )
    assert outcome.waited_seconds > 0
    assert waiting.lines[0].startswith("waiting for ")


def finish(leader, database) -> None:
    """The leader is done: all that this build knows is recorded."""
    database.rows("CREATE TABLE IF NOT EXISTS django_migrations (app text, name text)")
    for name in current_build().migrations:
        database.rows("INSERT INTO django_migrations VALUES (%s, %s)", *name.split("."))
    leader.finish_run("ready", State.READY)
    leader.session.lock.release()


def test_a_failure_is_shared_at_once(leader, in_background, django_database) -> None:
    """When the leader fails, its followers fail with its reason."""
    waiting = Waiting(in_background)
    wait_until(lambda: waiting.lines)
    leader.finish_run("failed", State.ERROR, "shop.0002_sale: ValueError: no")
    leader.session.lock.release()
    with pytest.raises(LeaderFailed, match=r"failed: shop\.0002_sale: ValueError: no"):
        waiting.result()


def test_a_dead_leader_is_replaced(leader, in_background, django_database) -> None:
    """When the leader's session ends, a follower leads."""
    waiting = Waiting(in_background, migrate=lambda: run_migrate("default"))
    wait_until(lambda: waiting.lines)
    leader.session.close()
    assert waiting.result().role == "leader"
    assert [run["outcome"] for run in django_database.runs()] == ["abandoned", "ready"]


def test_the_followers_connection_is_ended(
    leader, in_background, django_database
) -> None:
    """A follower whose connection is ended takes another one."""
    waiting = Waiting(in_background)
    [backend] = wait_until(lambda: waiting.lines and django_database.followers())
    django_database.rows("SELECT pg_terminate_backend(%s, 5000)", backend["pid"])
    wait_until(lambda: django_database.followers())
    finish(leader, django_database)
    assert waiting.result().role == "follower"


def test_external(leader, in_background, django_database) -> None:
    """A process that never leads waits, also when nobody leads, until its build is ready."""
    waiting = Waiting(in_background, mode="external")
    wait_until(lambda: waiting.lines)
    finish(leader, django_database)
    assert waiting.result().role == "follower"


def test_it_gives_up_in_time(leader, in_background) -> None:
    """After the time-out the error names the leader, its run, and how to end it."""
    waiting = Waiting(in_background, timeout=0.5)
    with pytest.raises(WaitTimeout) as caught:
        waiting.result()
    text = str(caught.value)
    assert text.startswith("Gave up after 0.5 s. waiting for ")
    assert f"leader of run {leader.run_id} for" in text
    pid = leader.session.handshake_pid
    assert text.endswith(
        ". To end the leader: manage.py safe_init_unlock --database default, "
        f"or SELECT pg_terminate_backend({pid});"
    )


def test_it_gives_up_without_progress(leader, in_background, settings) -> None:
    """After WAIT_TIMEOUT without progress it gives up."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "WAIT_TIMEOUT": 0.3}
    with pytest.raises(WaitTimeout, match=r"Gave up: no progress for 0\.3 s\."):
        Waiting(in_background).result()


@pytest.mark.parametrize("mode", ["self", "external"])
def test_a_locked_status_table(leader, in_background, observer, mode) -> None:
    """A migration that locks our tables delays a follower, and no longer than its time-out."""
    observer.execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    waiting = Waiting(in_background, timeout=0.5, mode=mode)
    with pytest.raises(WaitTimeout, match="locked"):
        waiting.result()


@pytest.mark.parametrize("mode", ["self", "external"])
def test_tables_that_are_locked_at_first(
    leader, in_background, observer, django_database, mode
) -> None:
    """Who comes while our tables are locked says so, and goes on when they are free."""
    observer.execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    waiting = Waiting(in_background, mode=mode)
    wait_until(lambda: waiting.lines)
    assert waiting.lines == [
        "The status tables are locked at the moment, probably by a migration."
    ]
    observer.execute("COMMIT")
    finish(leader, django_database)
    assert waiting.result().run == leader.run_id


def test_an_orphan_that_locks_our_tables(
    leader, in_background, observer, django_database
) -> None:
    """A dead leader whose backend still locks our tables is replaced nevertheless."""
    waiting = Waiting(in_background, migrate=lambda: run_migrate("default"))
    wait_until(lambda: waiting.lines)
    observer.execute("SELECT pg_advisory_lock_shared(%s)", [work_key()])
    observer.execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    leader.session.close()
    assert waiting.result().role == "leader"
    with pytest.raises(psycopg.OperationalError):
        observer.execute("COMMIT")


def test_a_table_that_is_locked_later(
    leader, in_background, observer, django_database
) -> None:
    """A follower that was looking already outlasts a lock on our tables."""
    waiting = Waiting(in_background, timeout=30)
    wait_until(lambda: waiting.lines)
    observer.execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    wait_until(lambda: django_database.followers() and _is_blocked(django_database))
    wait_until(lambda: not _is_blocked(django_database))
    observer.execute("COMMIT")
    finish(leader, django_database)
    assert waiting.result().role == "follower"


def _is_blocked(database) -> bool:
    return bool(database.backends("wait_event_type = 'Lock'"))


def test_a_table_that_stays_locked(leader, in_background, observer) -> None:
    """It gives up at its time-out, though it can see nothing."""
    waiting = Waiting(in_background, timeout=1)
    wait_until(lambda: waiting.lines)
    observer.execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    with pytest.raises(WaitTimeout):
        waiting.result()


def test_the_server_goes_away(
    django_database, log_in_as, spare_server, in_background, settings, small_shop
) -> None:
    """A follower whose server does not come back gives up like anyone who cannot connect."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "CONNECT_ATTEMPTS": 1}
    log_in_as(HOST=spare_server.host, PORT=spare_server.port, NAME="postgres")
    waiting = Waiting(in_background, mode="external")
    wait_until(lambda: waiting.lines)
    spare_server.stop("immediate")
    try:
        with pytest.raises(DatabaseUnreachable):
            waiting.result()
    finally:
        spare_server.start()


def test_a_follower_names_what_blocks_the_leader(
    leader, session, connect_raw, in_background, monkeypatch, settings
) -> None:
    """A follower that gives up says what blocked the leader, and how to end that."""
    monkeypatch.setattr(wait_log, "_SECONDS_BETWEEN_DIAGNOSES", 0.0)
    settings.SAFE_INIT = {**settings.SAFE_INIT, "WAIT_TIMEOUT": 1}
    session.rows("CREATE TABLE busy ()")
    reader, working = connect_raw(application_name="report"), connect_raw()
    reader.execute("BEGIN; SELECT * FROM busy")
    working.execute("SELECT pg_advisory_lock_shared(%s)", [work_key()])
    altering = in_background(lambda: working.execute("DROP TABLE busy"))
    with pytest.raises(WaitTimeout) as caught:
        Waiting(in_background).result()
    text = str(caught.value)
    assert "DROP TABLE busy; blocked by pid" in text
    assert f"To end it: SELECT pg_terminate_backend({reader.info.backend_pid});" in text
    reader.execute("COMMIT")
    altering.result()
