"""`migrate` keeps Django's behavior, options, signals and output under the leader lock."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.core.management.commands.migrate import Command as DjangoMigrate
from django.db import connections, transaction
from django.db.models.signals import post_migrate, pre_migrate

from django_safe_init import ConfigurationError, get_status, initialize
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_keys import leader_key
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE, leader_name
from django_safe_init.management.commands.migrate import Command
from tests.database.conftest import INITIAL
from tests.support import PATIENCE, Database, wait_until

pytestmark = pytest.mark.every_django

OURS = {RUN_TABLE, STEP_TABLE}


def tables(database: Database) -> set[str]:
    rows = database.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row["tablename"] for row in rows}


class Side:
    """Run one of the two commands on a separate database."""

    def __init__(self, command: type[DjangoMigrate], database: Database) -> None:
        self.command, self.database = command, database
        self.told: list[object] = []

    def run(self, *arguments: str, **options: object) -> None:
        """Run the command, and record its output, signals and end."""
        out, err = StringIO(), StringIO()
        connections["default"].close()
        connections.settings["default"].update(self.database.settings())
        del connections["default"]
        for sent in (pre_migrate, post_migrate):
            sent.connect(self._note)
        try:
            call_command(self.command(), *arguments, stdout=out, stderr=err, **options)
            self.told.append("ended")
        except (CommandError, SystemExit, ValueError) as exc:
            self.told.append((type(exc), str(exc)))
        finally:
            for sent in (pre_migrate, post_migrate):
                sent.disconnect(self._note)
            connections["default"].close()
        # Verbosity 2 prints the duration of each migration.
        self.told.append(re.sub(r"\d+\.\d+s", "… s", out.getvalue()))
        self.told.append(err.getvalue())

    def _note(
        self, sender, signal, stdout=None, plan=None, apps=None, **values
    ) -> None:
        names = [(f"{each.app_label}.{each.name}", back) for each, back in plan or ()]
        models = sorted(model._meta.label for model in apps.get_models())
        self.told.append((sender.label, signal is pre_migrate, names, models, values))

    @property
    def recorded(self) -> list[str]:
        return sorted(self.database.applied_counts().elements())


@pytest.fixture
def sides(django_database, make_database, shop) -> tuple[Side, Side]:
    """Return Django's command and this package's, each with an empty database."""
    return Side(DjangoMigrate, make_database()), Side(Command, django_database)


def assert_same(sides: tuple[Side, Side]) -> None:
    django, ours = sides
    assert ours.told == django.told
    assert ours.recorded == django.recorded
    assert tables(ours.database) - OURS == tables(django.database)


SCENARIOS: dict[str, list[tuple[tuple[str, ...], dict[str, object]]]] = {
    "all": [((), {})],
    "all, silent": [((), {"verbosity": 0})],
    "all, verbose": [((), {"verbosity": 2})],
    "again": [((), {}), ((), {})],
    "again, verbose": [((), {}), ((), {"verbosity": 2})],
    "an app": [(("shop",), {})],
    "a target": [
        (("shop", "0001"), {}),
        (("shop", "0002"), {"verbosity": 2}),
        ((), {}),
    ],
    "back": [((), {}), (("shop", "0001"), {"verbosity": 2})],
    "zero": [((), {}), (("shop", "zero"), {"verbosity": 2})],
    "plan": [((), {"plan": True})],
    "plan, nothing": [((), {}), ((), {"plan": True})],
    "plan, back": [((), {}), (("shop", "zero"), {"plan": True})],
    "check": [((), {"check_unapplied": True})],
    "check, nothing": [((), {}), ((), {"check_unapplied": True})],
    "fake": [((), {"fake": True, "verbosity": 2})],
    "fake, back": [((), {}), (("shop", "zero"), {"fake": True})],
    "fake-initial": [
        ((), {}),
        (("shop", "zero"), {"fake": True}),
        (("shop", "0001"), {"fake_initial": True, "verbosity": 2}),
    ],
    "run-syncdb": [((), {"run_syncdb": True, "verbosity": 2})],
    "unknown app": [(("nowhere",), {})],
    "unknown migration": [(("shop", "0009"), {})],
    "ambiguous migration": [(("shop", "00"), {})],
    "prune without app": [((), {"prune": True})],
    "unmigrated app": [(("django_safe_init",), {})],
    "syncdb of a migrated app": [(("shop",), {"run_syncdb": True})],
}


@pytest.mark.parametrize("runs", SCENARIOS.values(), ids=SCENARIOS)
def test_it_is_djangos(sides, small_shop, runs) -> None:
    """The command prints, sends, raises, records and creates the same as Django's command."""
    for side in sides:
        for arguments, options in runs:
            side.run(*arguments, **{"interactive": False, **options})
    assert_same(sides)


@pytest.mark.parametrize("verbosity", [0, 1, 2])
def test_prune(sides, small_shop, verbosity) -> None:
    """--prune deletes the records of removed migrations, as Django's command does."""
    small_shop.write("0003_gone")
    for side in sides:
        side.run()
    small_shop.remove("0003_gone")
    for side in sides:
        side.run("shop", prune=True, verbosity=verbosity)
        side.run("shop", prune=True, verbosity=verbosity)
        assert "shop.0003_gone" not in side.recorded
    assert_same(sides)


@pytest.mark.parametrize("verbosity", [0, 1, 2])
def test_djangos_own_apps(sides, settings, verbosity) -> None:
    """The two commands agree on apps with permissions and content types."""
    settings.INSTALLED_APPS = [
        "django_safe_init",
        "django.contrib.contenttypes",
        "django.contrib.auth",
    ]
    for side in sides:
        side.run(verbosity=verbosity)
    assert_same(sides)
    count = "SELECT count(*)::int FROM auth_permission"
    assert sides[0].database.value(count) == sides[1].database.value(count) > 0


def test_a_failure_is_djangos(sides, small_shop) -> None:
    """The command raises the error of a migration, with Django's traceback."""

    def fail(connection) -> None:
        raise ValueError("no")

    small_shop.run("0003_fail", fail)
    for side in sides:
        side.run()
    assert (ValueError, "no") in sides[1].told
    assert_same(sides)
    assert sides[1].database.newest_run()["error"] == "shop.0003_fail: ValueError: no"


# Additions to Django's command


@pytest.fixture
def run(command_line):
    """Return a function that runs the command from a command line."""
    return partial(command_line, Command, "migrate")


def test_a_complete_run(run, django_database, small_shop) -> None:
    """After a complete `migrate`, `safe_migrate` has no work left."""
    assert run().code == 0
    [found] = django_database.runs()
    assert (found["command"], found["outcome"], found["state"]) == (
        "migrate",
        "ready",
        "ready",
    )
    assert initialize().role == "none"


def test_a_second_one_runs_again(run, django_database, small_shop) -> None:
    """`migrate` never takes the fast path: it sends `post_migrate` again."""
    run()
    ended = run()
    assert "No migrations to apply." in ended.stdout
    assert len(django_database.runs()) == 2


@pytest.mark.parametrize(
    ("arguments", "state", "ready"),
    [
        (["shop", "0001"], "uninitialized", False),
        (["shop", "0002"], "ready", True),
        (["shop"], "ready", True),
    ],
)
def test_a_target(run, django_database, small_shop, arguments, state, ready) -> None:
    """A run to an earlier target records a correct state."""
    run(*arguments)
    found = django_database.newest_run()
    assert (found["outcome"], found["state"]) == ("partial", state)
    assert get_status().ready is ready


def test_zero(run, django_database, small_shop) -> None:
    """After `zero` the database is not ready, and the next start applies all migrations again."""
    run()
    run("shop", "zero")
    assert not get_status().ready
    steps = django_database.steps()[2:]
    assert [(step["name"], step["backwards"], step["outcome"]) for step in steps] == [
        ("shop.0002_sale", True, "done"),
        ("shop.0001_initial", True, "done"),
    ]
    assert initialize().applied == ("shop.0001_initial", "shop.0002_sale")


@pytest.mark.parametrize("option", ["--plan", "--check"])
def test_looking_takes_no_lock(
    run, django_database, small_shop, session, option
) -> None:
    """--plan and --check do not wait for a leader, and write nothing."""
    assert AdvisoryLock(session).try_acquire()
    assert run(option).code == (1 if option == "--check" else 0)
    assert tables(django_database) == set()


@pytest.mark.parametrize("mode", ["test environment", "off", "environment variable"])
def test_off(run, django_database, small_shop, settings, monkeypatch, mode) -> None:
    """In mode "off" the command takes no lock, creates no table and prints no line."""
    if mode == "test environment":
        settings.SAFE_INIT = {}
    elif mode == "off":
        settings.SAFE_INIT = {**settings.SAFE_INIT, "MODE": "off"}
    else:
        monkeypatch.setenv("DB_INIT_MODE", "off")

    def look(connection) -> None:
        assert django_database.holders(leader_key()) == []

    small_shop.run("0003_look", look)
    ended = run("--verbosity", "0")
    assert (ended.code, ended.stdout, ended.stderr) == (0, "", "")
    assert len(django_database.applied_once()) == 3
    assert not OURS & tables(django_database)


def test_external_mode(run, django_database, small_shop, monkeypatch) -> None:
    """`migrate` leads in mode "external", too: it is the external process."""
    monkeypatch.setenv("DB_INIT_MODE", "external")
    assert run().code == 0
    assert django_database.newest_run()["outcome"] == "ready"


def test_another_engine(run, django_database, log_in_as, shop, tmp_path) -> None:
    """On an engine without a lock the command behaves like Django's."""
    shop.write("0001_initial", INITIAL)
    log_in_as(
        ENGINE="tests.other_engine",
        NAME=str(tmp_path / "db.sqlite3"),
        OPTIONS={},
    )
    ended = run("--skip-checks")
    names = connections["default"].introspection.table_names()
    log_in_as(**django_database.settings())
    assert ended.code == 0
    assert "shop_product" in names
    assert not OURS & set(names)


def test_it_waits(run, django_database, small_shop, session, in_background) -> None:
    """The command reports that it waits for the leader, and then leads a run."""
    lock = AdvisoryLock(session)
    assert lock.try_acquire()

    def release() -> None:
        wait_until(lambda: django_database.backends("query LIKE '%%LISTEN%%'"))
        lock.release()

    releasing = in_background(release)
    ended = run()
    releasing.result()
    assert ended.code == 0
    assert ended.stderr.startswith(
        "[safe_init] waiting for a leader that has opened no run yet: "
        f"the leader {leader_name()}"
    )
    assert django_database.newest_run()["command"] == "migrate"


def test_it_gives_up(run, django_database, small_shop, session, settings) -> None:
    """The command exits with 3 if it does not get the lock in time."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "MAX_WAIT": 0.2}
    assert AdvisoryLock(session).try_acquire()
    ended = run()
    assert ended.code == 3
    assert "CommandError: Gave up after 0.2 s." in ended.stderr


def test_unreachable(run, django_database, log_in_as, small_shop, settings) -> None:
    """An unreachable server causes one line and exit code 4, before any system check."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "CONNECT_ATTEMPTS": 1}
    log_in_as(PORT="1")
    ended = run()
    assert ended.code == 4
    assert "CommandError: The database 'default' cannot be reached: " in ended.stderr


@pytest.mark.parametrize(
    ("value", "text"),
    [({"MODE": "both"}, "SAFE_INIT['MODE'] is 'both'."), ([], "is not a dictionary")],
)
def test_wrong_settings(
    run, django_database, small_shop, settings, value, text
) -> None:
    """Wrong settings cause one line and exit code 2."""
    settings.SAFE_INIT = value
    ended = run()
    assert ended.code == 2
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr


def test_interrupted(run, django_database, small_shop) -> None:
    """A signal exits with 128 + n and closes the run."""

    def interrupt(connection) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(60)")

    small_shop.run("0003_interrupt", interrupt)
    assert run().code == 143
    assert django_database.newest_run()["outcome"] == "interrupted"


def test_interrupted_while_waiting_for_the_server(
    run, django_database, log_in_as, small_shop, monkeypatch
) -> None:
    """A signal ends the wait for an unreachable server, too."""
    log_in_as(PORT="1")

    def interrupt(low: float, high: float) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return high

    # Chooses the pause between two attempts, so it is called during the wait.
    monkeypatch.setattr(
        "django_safe_init.backends.postgresql.connect.random.uniform", interrupt
    )
    assert run().code == 143


def test_an_open_connection_stays_open(django_database, small_shop) -> None:
    """The command keeps the caller's open connection."""
    connections["default"].ensure_connection()
    raw = connections["default"].connection
    call_command("migrate", verbosity=0)
    assert connections["default"].connection is raw
    assert not raw.closed


def test_a_failure_of_ours(
    run, django_database, log_in_as, new_role, small_shop
) -> None:
    """An error of the package is one line with its exit code, without a traceback."""
    log_in_as(USER=new_role("small"))
    ended = run()
    assert ended.code == 2
    assert "CommandError: The role small may not keep the status tables" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_migration_that_calls_migrate(run, django_database, small_shop) -> None:
    """A `migrate` inside a migration belongs to the run, and does not wait."""
    plans: list[str] = []

    def nested(connection) -> None:
        out = StringIO()
        call_command("migrate", plan=True, stdout=out)
        call_command("migrate", "shop", "0002", stdout=out, verbosity=1)
        plans.append(out.getvalue())

    small_shop.run("0003_nested", nested)
    assert run().code == 0
    assert "No migrations to apply." in plans[0]


def test_other_databases_are_djangos(
    run, django_database, make_database, small_shop, monkeypatch
) -> None:
    """--database selects the alias."""
    other = make_database()
    configured = connections.configure_settings(
        {"default": {}, "other": other.settings()}
    )
    monkeypatch.setitem(connections.settings, "other", configured["other"])
    assert run("--database", "other").code == 0
    assert other.newest_run()["outcome"] == "ready"
    assert tables(django_database) == set()
    connections["other"].close()
    del connections["other"]


def test_without_a_parser(django_database, small_shop) -> None:
    """A package may execute the command with options and without a parser."""
    parser = Command().create_parser("manage.py", "migrate")
    options = vars(parser.parse_args(["--no-input", "--verbosity=0"]))
    Command().execute(**options)
    assert len(django_database.applied_once()) == 2


def test_an_unknown_database(run, django_database, small_shop) -> None:
    """An unknown alias is an error without a traceback."""
    ended = run("--database", "nowhere")
    assert ended.code == 2
    assert "Traceback" not in ended.stderr
    assert "nowhere" in ended.stderr


def test_a_program_of_its_own(django_database) -> None:
    """As a process, the command applies Django's own apps once, under the lock."""

    parameters = django_database.parameters
    ended = subprocess.run(
        [sys.executable, "-m", "django", "migrate"],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "TEST_DATABASE_NAME": django_database.name,
            "TEST_DATABASE_HOST": parameters["host"],
            "TEST_DATABASE_PORT": str(parameters["port"]),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert len(django_database.applied_once("auth")) == 12
    assert django_database.newest_run()["command"] == "migrate"


def test_the_third_lost_connection(django_database, small_shop, settings) -> None:
    """A connection that was lost for the third time is an error without a traceback."""
    settings.SAFE_INIT = {"IN_TESTS": True, "RESTARTS": 0}

    def lose(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    small_shop.run("0003_lose", lose)
    codes = []
    for _ in range(3):
        with pytest.raises(CommandError) as caught:
            call_command(Command(), verbosity=0)
        codes.append(caught.value.returncode)
    assert codes == [5, 5, 1]
    assert str(caught.value).startswith(
        "3 times in a row, the last time: shop.0003_lose: "
    )


def test_a_session_error(django_database, small_shop, monkeypatch) -> None:
    """A statement of this package that the server refused is an error without a traceback."""

    def refuse(lock) -> None:
        lock.session.rows("SELECT no_such_column")

    monkeypatch.setattr(AdvisoryLock, "try_acquire", refuse)
    with pytest.raises(CommandError, match="refused a statement: UndefinedColumn"):
        call_command(Command(), verbosity=0)


def test_a_quorum_without_a_lock(monkeypatch) -> None:
    """A quorum is left to django-syzygy where this package takes no lock."""
    command = Command()
    command._alias = "default"
    monkeypatch.setattr(command, "_is_protected", lambda options: False)
    command._check_quorum({"quorum": 2})
    monkeypatch.setattr(command, "_is_protected", lambda options: True)
    with pytest.raises(ConfigurationError, match="No quorum of 2"):
        command._check_quorum({"quorum": 2})


# Targets that do not exist


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["nope"], {}),
        (["safe_init_nope", "0001"], {}),
        (["django_safe_init"], {}),
        (["shop", "0009"], {}),
        (["shop", "000"], {}),
        (["shop"], {"run_syncdb": True}),
    ],
)
@pytest.mark.parametrize("engine", ["django_database", "lite"])
def test_a_target_that_does_not_exist(
    request, small_shop, engine, arguments, options
) -> None:
    """The error is Django's, inside a transaction too, and comes before the lock and a run."""
    database = request.getfixturevalue(engine)
    with pytest.raises(CommandError) as expected:
        call_command(DjangoMigrate(), *arguments, verbosity=0, **options)
    for block in (nullcontext(), transaction.atomic()):
        with pytest.raises(CommandError) as caught, block:
            call_command("migrate", *arguments, verbosity=0, **options)
        assert str(caught.value) == str(expected.value)
    assert not database.has_table(RUN_TABLE)


def test_a_target_inside_a_transaction(django_database, small_shop) -> None:
    """A target that exists is refused there, with the remedy for a test."""
    with (
        transaction.atomic(),
        pytest.raises(CommandError, match="TransactionTestCase"),
    ):
        call_command("migrate", "shop", "0001", verbosity=0)


def test_a_target_beside_a_broken_file(django_database, small_shop) -> None:
    """A migration that cannot be imported raises its own error."""
    (small_shop.folder / "0003_broken.py").write_text("import nowhere_at_all")
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        call_command("migrate", "shop", "0001", verbosity=0)


def test_zero_is_a_target(run, django_database, small_shop) -> None:
    """The target "zero" needs no migration of that name."""
    assert run("shop", "zero").code == 0
