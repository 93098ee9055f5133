"""`safe_init_status`: the status for people and for scripts."""

from __future__ import annotations

import os
import re
import signal
import threading
from contextlib import closing
from functools import partial
from types import SimpleNamespace

import pytest
from django.core.management import call_command
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder

from django_safe_init import InitializationFailed, initialize
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.reader import PostgresReader
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.schema import ensure_tables
from django_safe_init.backends.sqlite3.session import SQLiteSession
from django_safe_init.core.build import current_build
from django_safe_init.core.records import RUN_TABLE, ConnectionEnded
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


def test_many_pending_migrations(run, django_database, small_shop) -> None:
    """Of many pending migrations the first few are named; --verbosity 2 names all."""
    names = [f"00{number:02}_more" for number in range(3, 30)]
    for name in names:
        small_shop.write(name)
    first, line = run().stdout.splitlines()
    assert first == "default: uninitialized - not initialized for this build"
    assert line == (
        "  to apply (29): shop.0001_initial, shop.0002_sale, shop.0003_more and 26 more"
        " (--verbosity 2 shows all)"
    )
    assert len(run("--json").json["pending"]) == 29
    _, line, *lines = run("--verbosity", "2").stdout.splitlines()
    assert line == "  to apply (29):"
    assert lines == [f"    shop.{name}" for name in small_shop.names]


def test_many_unknown_migrations(run, django_database, small_shop) -> None:
    """Of many migrations that this build does not know, the first few are named."""
    recorder = MigrationRecorder(connections["default"])
    recorder.ensure_schema()
    for number in range(9):
        recorder.record_applied("shop", f"900{number}_other")
    first, *_ = run().stdout.splitlines()
    assert first.endswith(
        "which does not know shop.9000_other, shop.9001_other, shop.9002_other and 6 more"
    )
    text = run("--verbosity", "2").stdout
    assert "  unknown to this build (9):\n    shop.9000_other\n" in text
    assert "\n    shop.9008_other\n" in text


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
        "schemas": None,
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


# One run


def test_a_failed_run(run, django_database, small_shop) -> None:
    """--run N prints the run's times, steps and error, and where the error was raised."""
    fail(small_shop)
    initialize_again(small_shop)
    ended = run("--run", "1")
    assert ended.code == 0
    took = r" +\d\.\d\d s"
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    assert re.fullmatch(
        "default: run 1 - failed\n"
        "  command:   initialize\n"
        r"  leader:    \S+:\d+\n"
        rf"  started:   {moment}\n"
        rf"  finished:  {moment}\n"
        r"  took:      \d\.\d\d s\n"
        "  done:      2 of 3\n"
        "  error:     shop.0003_fail: ValueError: no\n"
        "  steps:\n"
        rf"      1 {took}  done        shop.0001_initial\n"
        rf"      2 {took}  done        shop.0002_sale\n"
        rf"      3 {took}  failed      shop.0003_fail\n"
        "  traceback:\n"
        r"\| Traceback \(most recent call last\):\n"
        r"(\|   .*\n)+"
        r"\|   File .*test_safe_init_status.py.*, in refuse\n"
        r'\|     raise ValueError\("no"\)\n'
        r"(\|     .*\n)?"
        r"\| ValueError: no\n",
        ended.stdout,
    )
    assert "run 2 - ready" in run("--run", "2").stdout
    assert "traceback" not in run("--run", "2").stdout


def initialize_again(shop) -> None:
    """Initialize with the migration that failed removed."""
    shop.remove("0003_fail")
    initialize()


def test_json_of_a_run(run, django_database, small_shop) -> None:
    """--run N --json prints the run and its steps; no JSON has the traceback."""
    fail(small_shop)
    ended = run("--run", "1", "--json")
    assert ended.code == 0
    assert ended.json["database"] == "default"
    assert ended.json["run"]["error"] == "shop.0003_fail: ValueError: no"
    steps = [(step["name"], step["outcome"]) for step in ended.json["steps"]]
    assert steps[1:] == [("shop.0002_sale", "done"), ("shop.0003_fail", "failed")]
    for output in (ended, run("--json", "--history", "9")):
        assert output.json
        assert "raceback" not in output.stdout


def test_an_unknown_run(run, django_database, small_shop) -> None:
    """A number without a run causes exit code 2 with the newest number."""
    ended = run("--run", "1")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr == (
        "CommandError: Run 1 cannot be shown for database 'default': no run is recorded."
        " List the runs with --history N.\n"
    )
    initialize()
    for number in ("2", "0", "-1", str(2**63), "9" * 99):
        ended = run("--run", number, "--json")
        assert ended.code == 2
        error = (
            f"Run {number} cannot be shown for database 'default': the newest is run 1."
        )
        assert ended.json["error"].startswith(error)


@pytest.mark.parametrize("option", ["--wait", "--watch", "--history=3"])
def test_a_run_and_another_option(run, django_database, small_shop, option) -> None:
    """--run excludes the options that show something else."""
    initialize()
    ended = run("--run", "1", option)
    assert ended.code == 2
    assert "--run shows one run: leave out" in ended.stderr


def test_an_open_run_by_its_number(run, django_database, small_shop, session) -> None:
    """--run N of an open run shows the running step."""
    recorder = open_run(session)
    recorder.total = 2
    recorder.start_step("shop.0001_initial", backwards=True, atomic=False)
    text = run("--run", "1").stdout
    assert text.startswith("default: run 1 - open\n")
    assert "  now:       shop.0001_initial\n" in text
    assert re.search(r"  running     shop.0001_initial, backwards\n$", text)
    assert "finished" not in text


def test_a_run_without_a_traceback(run, django_database, small_shop, session) -> None:
    """A run of an older version, and a run whose leader died, have no traceback."""
    recorder = open_run(session)
    recorder.start_step("shop.0001_initial", backwards=False, atomic=False)
    session.close()
    initialize()
    text = run("--run", "1").stdout
    assert "default: run 1 - abandoned\n" in text
    assert "  broken off  shop.0001_initial\n" in text
    assert text.endswith("  traceback: none was recorded\n")
    django_database.rows(f"ALTER TABLE {RUN_TABLE} DROP COLUMN traceback")
    assert run("--run", "1").stdout == text


def test_a_run_while_the_tables_are_locked(run, django_database, small_shop) -> None:
    """A migration that locks the tables causes exit code 3, and the command names it."""
    initialize()
    with django_database.connect() as other:
        other.autocommit = False
        other.execute(f"LOCK TABLE {RUN_TABLE}")
        ended = run("--run", "1")
        other.rollback()
    assert ended.code == 3
    assert "Run 1 cannot be read for database 'default': " in ended.stderr
    assert "django_safe_init_run" in ended.stderr


def test_a_run_whose_steps_cannot_be_read(
    run, django_database, small_shop, log_in_as, new_role
) -> None:
    """Without the right to read the steps, the command shows the rest of the run."""
    initialize()
    role = new_role("safe_init_reader")
    django_database.rows(f"GRANT SELECT ON {RUN_TABLE} TO {role}")
    log_in_as(USER=role)
    ended = run("--run", "1")
    assert ended.code == 0
    assert "  steps:     " in ended.stdout
    assert "permission denied" in ended.stdout


def test_a_connection_that_ends(run, django_database, small_shop, monkeypatch) -> None:
    """A lost connection causes exit code 4."""

    def lose(*arguments):
        raise ConnectionEnded("gone")

    initialize()
    monkeypatch.setattr(PostgresReader, "traceback", lose)
    ended = run("--run", "1")
    assert ended.code == 4
    assert "The connection to 'default' ended: gone" in ended.stderr


@pytest.mark.parametrize("number", ["1", "2"])
def test_a_run_on_sqlite(run, lite, small_shop, number) -> None:
    """On SQLite, --run N shows a failed run with its traceback."""
    fail(small_shop)
    ended = run("--run", number)
    if number == "2":
        assert ended.code == 2
        return
    assert ended.code == 0
    assert "  error:     shop.0003_fail: ValueError: no\n" in ended.stdout
    assert "\n| ValueError: no\n" in ended.stdout
    with closing(SQLiteSession("default")) as session, session.writing():
        session.rows(f"ALTER TABLE {RUN_TABLE} DROP COLUMN traceback")
    assert "  traceback: none was recorded\n" in run("--run", number).stdout


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
    assert "CommandError: Gave up after 0.2 s. No process initializes" in ended.stderr
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


def test_no_tenants(run, django_database, small_shop) -> None:
    """Without tenants the list is empty, and no schema can be shown."""
    assert run("--schemas").stdout == "default: no tenants\n"
    assert run("--schemas", "--json").json == {"database": "default", "tenants": []}
    ended = run("--schema", "acme")
    assert ended.code == 2
    assert "'acme': it has no tenants" in ended.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--run", "1", "--schemas"), "--run and --schemas show different things"),
        (("--schemas", "--schema", "a"), "--schemas and --schema show different"),
        (("--schemas", "--history", "2"), "--schemas shows the schemas of tenants"),
        (("--schema", "a", "--watch"), "--schema shows one schema: leave out --wait"),
    ],
)
def test_options_that_exclude_each_other(
    run, django_database, small_shop, options, message
) -> None:
    """Two options that show different things are a usage error."""
    ended = run(*options)
    assert ended.code == 2
    assert message in ended.stderr
