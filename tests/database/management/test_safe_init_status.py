"""`safe_init_status`: the status for people and for scripts."""

from __future__ import annotations

import os
import re
import signal
import threading
from functools import partial
from types import SimpleNamespace

import pytest
from django.core.management import call_command

from django_safe_init import InitializationFailed, initialize
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.schema import ensure_tables
from django_safe_init.core.build import current_build
from django_safe_init.core.records import RUN_TABLE
from django_safe_init.core.states import State
from django_safe_init.management import watch
from django_safe_init.management.commands.safe_init_status import Command
from tests.support import wait_until


@pytest.fixture
def run(command_line):
    """Return a function that runs the command from a command line."""
    return partial(command_line, Command, "safe_init_status")


def fail(shop) -> None:
    """Run an initialization that fails."""

    def refuse(connection) -> None:
        raise ValueError("no")

    shop.run("0003_fail", refuse)
    with pytest.raises(InitializationFailed):
        initialize()


def test_not_ready(run, django_database, small_shop) -> None:
    """The command exits with 3 on an empty database, and lists the pending migrations."""
    ended = run()
    assert ended.code == 3
    assert ended.stdout == (
        "default: uninitialized - not initialized for this build\n"
        "  to apply: shop.0001_initial, shop.0002_sale\n"
    )
    assert django_database.value(f"SELECT to_regclass('{RUN_TABLE}')") is None


def test_ready(run, django_database, small_shop) -> None:
    """The command exits with 0 on an initialized database."""
    initialize()
    ended = run()
    assert ended.code == 0
    assert ended.stdout == "default: ready - everything this build knows is done\n"


def test_error(run, django_database, small_shop) -> None:
    """The command exits with 1 after a failed initialization, and prints the reason."""
    fail(small_shop)
    ended = run()
    assert ended.code == 1
    assert "default: error - shop.0003_fail: ValueError: no\n" in ended.stdout


def test_json(run, django_database, small_shop) -> None:
    """--json prints one object with the newest run, and keeps the exit code."""
    ended = run("--json")
    assert ended.code == 3
    assert ended.json == {
        "database": "default",
        "state": "uninitialized",
        "ready": False,
        "progress": 0,
        "message": "not initialized for this build",
        "led": False,
        "run": None,
        "pending": ["shop.0001_initial", "shop.0002_sale"],
        "unknown": [],
        "error": None,
        "activity": None,
        "blockers": [],
        "history": [],
    }
    initialize()
    ended = run("--json")
    assert ended.code == 0
    found = ended.json["run"]
    assert (found["state"], found["outcome"], found["done"]) == ("ready", "ready", 2)
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00"
    assert re.fullmatch(moment, found["started_at"])
    assert re.fullmatch(moment, found["finished_at"])


def test_history(run, django_database, small_shop) -> None:
    """--history N prints the last N runs with their errors, newest first."""
    initialize()
    fail(small_shop)
    heading, *lines = run("--history", "5").stdout.splitlines()[2:]
    assert heading.split()[:5] == ["run", "started", "took", "outcome", "done"]
    assert len(lines) == 2
    took = r" \d\.\d\d s  "
    assert re.search(rf"^  2  2.*{took}failed    0/1  initialize  ", lines[0])
    assert lines[0].endswith("  shop.0003_fail: ValueError: no")
    assert re.search(rf"^  1  2.*{took}ready     2/2  initialize  .*:\d+$", lines[1])
    assert [each["id"] for each in run("--history", "1", "--json").json["history"]] == [
        2
    ]


def test_an_open_run(run, django_database, small_shop, session) -> None:
    """The history shows an open run as open."""
    open_run(session)
    ended = run("--history", "1")
    assert ended.code == 3
    assert re.search(r"^  1  2.* s  open      0/0  test  ", ended.stdout, re.MULTILINE)


def open_run(session) -> PostgresRecorder:
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    ensure_tables(session)
    recorder = PostgresRecorder(session, current_build(), None)
    recorder.open_run("test")
    return recorder


def test_watch(run, django_database, small_shop, session, monkeypatch) -> None:
    """--watch prints each change, and survives a lost connection, until ready or failed."""
    recorder = open_run(session)
    recorder.total = 2
    recorder.update(State.MIGRATING, "shop.0001_initial")

    clock = SimpleNamespace(sleep=lambda seconds: next(changes))
    monkeypatch.setattr(watch, "time", clock)

    def change():
        yield
        recorder.done = 1
        recorder.update(State.MIGRATING, "shop.0002_sale")
        yield
        # No change: the command prints no line.
        yield
        [watcher] = django_database.backends("application_name ~ 'status'")
        django_database.rows("SELECT pg_terminate_backend(%s, 5000)", watcher["pid"])
        # The command reconnects, and reports that.
        yield
        recorder.finish_run("failed", State.ERROR, "it broke")
        yield

    changes = change()
    ended = run("--watch")
    assert ended.code == 1
    first, second, lost, last, *_ = ended.stdout.splitlines()
    assert first == "default: migrating 1/2 shop.0001_initial"
    assert second == "default: migrating 2/2 shop.0002_sale"
    assert lost.startswith("default: The connection to 'default' ended: ")
    assert lost.endswith(" Connecting again.")
    assert last == "default: error - it broke"


def test_watch_a_ready_database(run, django_database, small_shop) -> None:
    """--watch ends at once on a ready database."""
    initialize()
    assert run("--watch").stdout.count("\n") == 1


def test_wait(run, django_database, small_shop, in_background) -> None:
    """--wait waits until another process initialized the database."""
    waiting = in_background(lambda: call_command("safe_init_status", wait=True))
    wait_until(lambda: django_database.followers())
    initialize()
    waiting.result()
    assert run("--wait").code == 0


def test_wait_in_vain(run, django_database, small_shop) -> None:
    """--wait --timeout exits with 3 after the timeout."""
    ended = run("--wait", "--timeout", "0.2")
    assert ended.code == 3
    assert (
        "[safe_init] waiting for somebody to initialize this database" in ended.stderr
    )
    assert "CommandError: Gave up after 0.2 s. Nobody initializes" in ended.stderr
    ended = run("--wait", "--timeout", "0.2", "--json")
    assert ended.code == 3
    assert ended.json["error"].startswith("Gave up after 0.2 s.")


def test_interrupted(run, django_database, small_shop) -> None:
    """A signal ends the wait with 128 + n."""

    def interrupt() -> None:
        wait_until(lambda: django_database.backends("query LIKE '%%LISTEN%%'"))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    ended = run("--wait")
    thread.join()
    assert ended.code == 143


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--database", "nowhere"], 2),
        (["--wait", "--timeout", "-1"], 2),
        (["--history", "many"], 2),
    ],
)
def test_usage(run, django_database, small_shop, arguments, code) -> None:
    """Wrong arguments cause exit code 2 without a traceback."""
    ended = run(*arguments)
    assert ended.code == code
    assert "Traceback" not in ended.stderr


def test_unreachable(run, django_database, log_in_as, small_shop) -> None:
    """An unreachable server causes exit code 4, also with --json."""
    log_in_as(PORT="1")
    ended = run("--json")
    assert ended.code == 4
    assert ended.json["error"].startswith("The database 'default' cannot be reached: ")
    assert ended.json["database"] == "default"
