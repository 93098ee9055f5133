"""`safe_migrate`: every option, every exit code, and one JSON object."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial

import pytest
from django.core.checks import Error, register
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections

from django_safe_init import get_status, initialize
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_keys import leader_key
from django_safe_init.core.records import RUN_TABLE, leader_name
from django_safe_init.management.commands.safe_migrate import Command
from tests.database.conftest import INITIAL, SALE
from tests.support import PATIENCE, wait_until

KEYS = [
    "result",
    "role",
    "database",
    "run",
    "applied",
    "waited_seconds",
    "duration_seconds",
    "error",
    "schemas_migrated",
]


@pytest.fixture
def run(command_line):
    """Return a function that runs the command from a command line."""
    return partial(command_line, Command, "safe_migrate")


def there_is_no_table(database) -> bool:
    return database.value(f"SELECT to_regclass('{RUN_TABLE}')") is None


def no_price(connection) -> None:
    raise ValueError("no price")


# Ready


def test_the_options_of_every_command(run, small_shop) -> None:
    """Contradictory options of Django cause a usage error, also in the JSON object."""
    ended = run("--json", "--no-color", "--force-color")
    assert (ended.code, ended.json["result"]) == (2, "usage")
    assert "can't be used together" in ended.json["error"]
    assert run("--no-color", "--force-color").code == 2


@pytest.mark.parametrize("json_too", [True, False])
def test_traceback(run, django_database, small_shop, json_too) -> None:
    """--traceback keeps the exit code and the object, and prints the cause."""
    small_shop.run("0003_broken", no_price)
    ended = run("--traceback", *["--json"][:json_too])
    assert ended.code == 1
    assert "in no_price" in ended.stderr
    assert "ValueError: no price" in ended.stderr
    if json_too:
        assert ended.json["result"] == "failed"


def test_a_traceback_in_the_log(run, django_database, small_shop, caplog) -> None:
    """The leader's log has the cause of a failure."""
    caplog.set_level("INFO", "django_safe_init")
    small_shop.run("0003_broken", no_price)
    assert "in no_price" not in run().stderr
    [told] = [each for each in caplog.records if each.exc_info]
    assert "shop.0003_broken: ValueError: no price" in told.getMessage()


@pytest.mark.parametrize("how", ["--plan", "--check", "--phase=privileged", "--json"])
@pytest.mark.parametrize("timeout", ["nan", "-1"])
def test_a_time_out_that_cannot_be(run, small_shop, how, timeout) -> None:
    """An impossible timeout is a usage error in every mode of the command."""
    ended = run(how, f"--timeout={timeout}")
    assert ended.code == 2
    assert f"A time-out of {timeout} seconds is not possible" in ended.stderr + (
        ended.stdout
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [("--rerun", "shop.0002_sale"), ("--resume", "shop.0002_sale:1")],
)
def test_options_for_one_database(run, small_shop, option, value) -> None:
    """--rerun and --resume are usage errors with several databases."""
    ended = run(option, value, "--database", "default", "--database", "other")
    assert ended.code == 2
    assert f"{option} is about one database" in ended.stderr


def test_it_leads(run, django_database, small_shop) -> None:
    """The command leads on an empty database, with Django's output on standard output."""
    ended = run()
    assert ended.code == 0
    assert "Applying shop.0001_initial... OK" in ended.stdout
    assert ended.stdout.splitlines()[-1].startswith(
        "default: ready (leader, 2 migrations applied, "
    )
    assert ended.stderr == ""
    assert django_database.newest_run()["command"] == "safe_migrate"


def test_nothing_to_do(run, django_database, small_shop) -> None:
    """The second start reports that it has no work, and imports no migration."""
    run()
    for name in small_shop.names:
        sys.modules.pop(f"{small_shop.package}.{name}")
    ended = run()
    assert ended.code == 0
    assert ended.stdout.startswith("default: ready (nothing to do, ")
    imported = {f"{small_shop.package}.{name}" for name in small_shop.names}
    assert not imported & set(sys.modules)


def test_quiet(run, django_database, small_shop) -> None:
    """--verbosity 0 prints nothing on success."""
    assert run("--verbosity", "0").stdout == ""


def test_json(run, django_database, small_shop) -> None:
    """--json prints exactly one object with exactly these keys."""
    ended = run("--json")
    assert ended.code == 0
    assert list(ended.json) == KEYS
    assert ended.json["result"] == "ready"
    assert ended.json["role"] == "leader"
    assert ended.json["run"] == django_database.newest_run()["id"]
    assert ended.json["applied"] == ["shop.0001_initial", "shop.0002_sale"]
    assert ended.json["error"] is None
    assert run("--json").json["role"] == "none"


def test_json_whatever_is_printed(run, django_database, small_shop) -> None:
    """Output of migrations and of their child processes does not mix with the object."""

    def shout(connection) -> None:
        print("from a migration")
        subprocess.run(["echo", "from a program"], check=True, timeout=PATIENCE)

    small_shop.run("0003_shout", shout)
    ended = run("--json")
    assert ended.json["applied"][-1] == "shop.0003_shout"
    assert "from a migration" in ended.stderr
    assert "from a program" in ended.stderr
    assert "Applying shop.0003_shout" in ended.stderr


def test_json_through_call_command(django_database, small_shop, capsys) -> None:
    """`call_command` writes the object to the given stream."""
    call_command("safe_migrate", json=True, verbosity=0)
    assert json.loads(capsys.readouterr().out)["result"] == "ready"


def test_force(run, django_database, small_shop) -> None:
    """--force runs although this build is initialized."""
    run()
    assert run("--force", "--json").json["role"] == "leader"
    assert len(django_database.runs()) == 2


@pytest.mark.parametrize("arguments", [(), ("--database", "other")])
def test_databases(
    run, django_database, make_database, small_shop, settings, monkeypatch, arguments
) -> None:
    """The command initializes the databases in DATABASES, or only the selected one."""
    other = make_database()
    configured = connections.configure_settings(
        {"default": {}, "other": other.settings()}
    )
    monkeypatch.setitem(connections.settings, "other", configured["other"])
    settings.SAFE_INIT = {**settings.SAFE_INIT, "DATABASES": ["default", "other"]}
    ended = run("--json", *arguments)
    assert len(other.applied_once()) == 2
    if arguments:
        assert ended.json["database"] == "other"
        assert django_database.applied_counts() == {}
    else:
        assert ended.json["result"] == "ready"
        assert [each["database"] for each in ended.json["databases"]] == [
            "default",
            "other",
        ]
    connections["other"].close()
    del connections["other"]


def test_the_worst_decides(run, django_database, small_shop) -> None:
    """The worst result of several databases comes first, and sets the exit code."""
    ended = run("--json", "--database", "default", "--database", "nowhere")
    assert ended.code == 2
    assert ended.json["result"] == "usage"
    assert [each["result"] for each in ended.json["databases"]] == ["usage", "ready"]
    assert "nowhere: There is no database 'nowhere'" in ended.stderr


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_unforeseen_error_of_one(
    run, django_database, small_shop, caplog, jobs
) -> None:
    """An unexpected error of one database is logged and does not stop another."""

    @register
    def check_and_break(app_configs, databases, **kwargs):
        if "default" in databases:
            raise LookupError("no such app")
        return []

    ended = run("--jobs", jobs, "--database", "default", "--database", "nowhere")
    assert ended.code == 2
    assert ended.stderr.splitlines()[-2:] == [
        "CommandError: nowhere: There is no database 'nowhere' in DATABASES. "
        f"Use one of: {', '.join(connections.settings)}.",
        "default: A system check raised LookupError: no such app",
    ]
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.exc_info[0] is LookupError


def test_called_from_a_thread(django_database, small_shop, in_background) -> None:
    """The command initializes several databases from a thread, where no signal arrives."""
    thread = in_background(
        lambda: call_command(
            "safe_migrate", database=["default", "nowhere"], jobs=2, verbosity=0
        )
    )
    with pytest.raises(CommandError) as caught:
        thread.result()
    assert caught.value.returncode == 2
    assert len(django_database.applied_once()) == 2


def test_a_migration_that_interrupts_itself(run, django_database, small_shop) -> None:
    """The command raises a KeyboardInterrupt that a migration raised in a thread."""

    def interrupt(connection) -> None:
        raise KeyboardInterrupt

    small_shop.run("0003_interrupt", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run("--jobs", "2", "--database", "default", "--database", "nowhere")
    assert django_database.newest_run()["outcome"] == "interrupted"


def test_a_database_named_twice(run, django_database, small_shop) -> None:
    """The command initializes a database once that is named twice."""
    ended = run("--json", "--database", "default", "--database", "default")
    assert "databases" not in ended.json


def test_external(run, django_database, small_shop) -> None:
    """--mode external waits for another process."""
    assert run("--mode", "external", "--timeout", "0").code == 3
    initialize()
    assert run("--mode", "external").code == 0


# Plan and check


def test_plan(run, django_database, small_shop) -> None:
    """--plan prints the pending work and changes nothing."""
    ended = run("--plan")
    assert ended.code == 0
    assert ended.stdout.startswith("Planned operations:\nshop.0001_initial\n")
    assert "ready" not in ended.stdout
    assert there_is_no_table(django_database)
    assert django_database.applied_counts() == {}


def test_check(run, django_database, small_shop) -> None:
    """--check exits with 1 unless ready, prints the reason, and changes nothing."""
    ended = run("--check")
    assert ended.code == 1
    assert "not ready: not initialized for this build; 2 to apply" in ended.stderr
    assert there_is_no_table(django_database)
    initialize()
    assert run("--check").code == 0


def test_check_with_many_pending_migrations(run, django_database, small_shop) -> None:
    """--check names the first pending migrations and their number; --verbosity 2 names all."""
    for number in range(3, 30):
        small_shop.write(f"00{number:02}_more")
    start = "CommandError: default: not ready: not initialized for this build; 29 to apply: "
    shown = "shop.0001_initial, shop.0002_sale, shop.0003_more"
    assert run("--check").stderr == f"{start}{shown} and 26 more\n"
    names = ", ".join(f"shop.{name}" for name in small_shop.names)
    assert run("--check", "--verbosity", "2").stderr == f"{start}{names}\n"


def test_plan_and_check(run, django_database, small_shop) -> None:
    """--plan and --check together print the plan and set the exit code."""
    ended = run("--plan", "--check")
    assert ended.code == 1
    assert "shop.0002_sale" in ended.stdout


def test_check_with_json(run, django_database, small_shop) -> None:
    """--check --json has the reason in the object."""
    ended = run("--check", "--json")
    assert (ended.code, ended.json["result"]) == (1, "failed")
    assert ended.json["error"].startswith("not ready: ")


# Failure


def test_a_failed_migration(run, django_database, small_shop) -> None:
    """A failed migration causes exit code 1 and one line, without a traceback."""

    def fail(connection) -> None:
        raise ValueError("no")

    small_shop.run("0003_fail", fail)
    ended = run()
    assert ended.code == 1
    assert ended.stderr == "CommandError: default: shop.0003_fail: ValueError: no\n"
    ended = run("--json")
    assert (ended.code, ended.json["result"]) == (1, "failed")
    assert ended.json["error"] == "shop.0003_fail: ValueError: no"
    assert ended.json["run"] == django_database.newest_run()["id"]


def test_applied_before_a_failure(run, django_database, small_shop) -> None:
    """The object of a failure lists the migrations that were applied before."""

    def fail(connection) -> None:
        raise ValueError("no")

    small_shop.run("0003_fail", fail)
    assert run("--json").json["applied"] == ["shop.0001_initial", "shop.0002_sale"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--database", "nowhere"], "There is no database 'nowhere'"),
        (["--timeout", "-1"], "A time-out of -1 seconds is not possible."),
        (["--rerun", "shop.0001_initial"], "that is not unfinished"),
        (["--jobs", "0"], "--jobs must be 1 or more."),
        (["--canary", "-1"], "--canary must be 0 or more."),
        *(
            (
                arguments,
                f"{arguments[0]} is about schemas of tenants, and no database here has them. "
                "Leave the option out.",
            )
            for arguments in (
                ["--schema", "t1"],
                ["--canary", "1"],
                ["--stop-at-first"],
            )
        ),
        (
            ["--", "no-such-program"],
            "The command 'no-such-program' after `--` is not on PATH",
        ),
        (
            ["--plan", "--", "true"],
            "--plan changes nothing, so no command can follow it.",
        ),
    ],
)
def test_usage(run, django_database, small_shop, arguments, text) -> None:
    """Wrong arguments cause one sentence and exit code 2."""
    ended = run(*arguments)
    assert ended.code == 2
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr
    ended = run("--json", *arguments)
    assert (ended.code, ended.json["result"]) == (2, "usage")
    assert text in ended.json["error"]


@pytest.mark.parametrize(
    "arguments", [["--mode", "both"], ["--timeout", "soon"], ["--x"]]
)
def test_usage_that_the_parser_finds(run, django_database, arguments) -> None:
    """Errors of the parser cause exit code 2, with --json in the object."""
    ended = run(*arguments)
    assert ended.code == 2
    assert "usage: " in ended.stderr
    ended = run(*arguments, "--json")
    assert (ended.code, ended.json["result"]) == (2, "usage")
    assert list(ended.json) == KEYS
    assert arguments[0] in ended.json["error"]


def test_help(run) -> None:
    """--help describes the command after `--`."""
    ended = run("--help")
    assert ended.code == 0
    assert "[options] [-- COMMAND ...]" in ended.stdout


def test_wrong_settings(run, django_database, settings) -> None:
    """A wrong setting causes one sentence and exit code 2."""
    settings.SAFE_INIT = {"DATABASES": "default"}
    ended = run("--json")
    assert (ended.code, ended.json["result"]) == (2, "usage")
    assert ended.json["error"].startswith("SAFE_INIT['DATABASES'] is 'default'.")


def test_an_unknown_mode_in_the_environment(run, django_database, monkeypatch) -> None:
    """An unknown mode in the environment causes one sentence and exit code 2."""
    monkeypatch.setenv("DB_INIT_MODE", "maybe")
    ended = run()
    assert ended.code == 2
    assert "The environment variable DB_INIT_MODE is 'maybe'." in ended.stderr


def test_unsafe(run, django_database, log_in_as, small_shop, tmp_path) -> None:
    """An engine without a lock causes exit code 2 and the result "unsafe"."""
    log_in_as(ENGINE="tests.other_engine", NAME=str(tmp_path / "db.sqlite3"))
    ended = run("--json")
    log_in_as(**django_database.settings())
    assert (ended.code, ended.json["result"]) == (2, "unsafe")


def test_missing_privilege(
    run, django_database, log_in_as, new_role, small_shop
) -> None:
    """A missing privilege causes exit code 2 and names the GRANT."""
    log_in_as(USER=new_role("small"))
    ended = run()
    assert ended.code == 2
    assert 'GRANT CREATE ON SCHEMA public TO "small";' in ended.stderr


def test_failing_checks(run, django_database, small_shop) -> None:
    """A failed system check stops the command before any work, unless checks are skipped."""

    @register
    def check_in_vain(app_configs, **kwargs):
        return [Error("It is Friday.")]

    ended = run("--json")
    assert (ended.code, ended.json["result"]) == (2, "usage")
    assert "It is Friday." in ended.json["error"]
    assert django_database.applied_once() == []
    assert ended.json["run"] == django_database.newest_run()["id"]
    assert run("--skip-checks").code == 0


def test_an_unforeseen_error(run, small_shop, caplog, monkeypatch) -> None:
    """With --json an unexpected error is an object, and its traceback is logged."""

    def fail(*args):
        raise LookupError("no such app")

    monkeypatch.setattr(Command, "_check_driver", fail)

    ended = run("--json")
    assert (ended.code, ended.json["result"]) == (1, "failed")
    assert ended.json["error"] == "LookupError: no such app"
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [
        LookupError
    ]
    with pytest.raises(LookupError):
        run()


def test_no_checks_where_there_is_nothing_to_do(
    run, django_database, small_shop
) -> None:
    """A start without work runs no system check."""
    run()
    checked = []

    @register
    def check_and_tell(app_configs, **kwargs):
        checked.append(True)
        return []

    run()
    assert checked == []
    run("--force")
    assert checked == [True]


def test_the_leader_before_its_run(run, django_database, small_shop) -> None:
    """While the system checks run, the status names the leader as its run will."""
    messages: list[str] = []

    @register
    def read(app_configs, **kwargs):
        messages.append(get_status().message)
        return []

    assert run().code == 0
    [message] = messages
    leader = django_database.newest_run()["leader"]
    assert message.endswith(f"the leader lock is held by the leader {leader}")


def test_timeout(run, django_database, small_shop, session) -> None:
    """A wait beyond --timeout causes exit code 3 and names the leader."""
    assert AdvisoryLock(session).try_acquire()
    ended = run("--timeout", "0.2")
    assert ended.code == 3
    assert "Gave up after 0.2 s." in ended.stderr
    assert (
        "[safe_init] waiting for a leader that has opened no run yet: "
        f"the leader {leader_name()}" in ended.stderr
    )
    ended = run("--timeout", "0.2", "--json")
    assert (ended.json["result"], ended.json["role"]) == ("timeout", "follower")
    assert ended.json["waited_seconds"] >= 0.2


def test_unreachable(run, django_database, log_in_as, small_shop, settings) -> None:
    """An unreachable server causes exit code 4."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "CONNECT_ATTEMPTS": 1}
    log_in_as(PORT="1")
    ended = run("--json")
    assert (ended.code, ended.json["result"]) == (4, "unreachable")


def test_lock_lost(run, django_database, small_shop, settings) -> None:
    """A lock that is lost too often causes exit code 5."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "RESTARTS": 0}

    def lose(connection) -> None:
        [pid] = django_database.holders(leader_key())
        django_database.rows("SELECT pg_terminate_backend(%s, 5000)", pid)

    small_shop.run("0003_lose", lose)
    small_shop.run("0004_never", lambda connection: None)
    ended = run("--json")
    assert (ended.code, ended.json["result"]) == (5, "lock_lost")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted(run, django_database, small_shop, number) -> None:
    """A signal exits with 128 + n, closes the run and frees the lock."""

    def interrupt(connection) -> None:
        os.kill(os.getpid(), number)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(60)")

    small_shop.run("0003_interrupt", interrupt)
    ended = run("--json", "--database", "default", "--database", "nowhere")
    assert (ended.code, ended.json["result"]) == (128 + number, "interrupted")
    assert ended.json["error"] == f"ended by {signal.Signals(number).name}"
    assert django_database.newest_run()["outcome"] == "interrupted"
    assert (
        django_database.rows("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []
    )


def test_interrupted_while_waiting(run, django_database, small_shop, session) -> None:
    """A signal interrupts a follower, too."""
    assert AdvisoryLock(session).try_acquire()

    def interrupt() -> None:
        wait_until(lambda: django_database.backends("query LIKE '%%LISTEN%%'"))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    ended = run("--json")
    thread.join()
    assert (ended.code, ended.json["result"]) == (143, "interrupted")
    assert ended.json["role"] == "follower"


# Rerun


def test_rerun(run, django_database, shop, settings) -> None:
    """--rerun runs an unfinished migration again if UNFINISHED is "report"."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "UNFINISHED": "report"}
    shop.write("0001_initial", INITIAL)
    fails = [True]

    def work(connection) -> None:
        if fails:
            raise ValueError(fails.pop())

    shop.run("0002_work", work, atomic=False)
    shop.write("0003_sale", SALE)
    assert run().code == 1
    ended = run()
    assert ended.code == 1
    assert "safe_migrate --rerun shop.0002_work" in ended.stderr
    assert run("--rerun", "shop.0002_work", "--json").json["applied"] == [
        "shop.0002_work",
        "shop.0003_sale",
    ]


# `-- COMMAND`


@pytest.fixture
def start(django_database):
    """Return a function that runs manage.py as a process, with Django's own apps."""

    def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
        parameters = django_database.parameters
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "TEST_DATABASE_NAME": django_database.name,
            "TEST_DATABASE_HOST": parameters["host"],
            "TEST_DATABASE_PORT": str(parameters["port"]),
        }
        return subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return run_process


def test_it_becomes_the_command(start, django_database) -> None:
    """The process becomes the command once ready, with the command's exit code and output."""
    ended = start(
        "safe_migrate", "--json", "--", "sh", "-c", "echo $0 served; exit 7", "was"
    )
    assert ended.returncode == 7
    first, last = ended.stdout.splitlines()
    assert json.loads(first)["result"] == "ready"
    assert last == "was served"
    assert len(django_database.applied_once("auth")) == 12


def test_it_does_not_become_the_command(start, django_database) -> None:
    """The process does not become the command after a failure."""
    django_database.rows("DROP SCHEMA public")
    ended = start("safe_migrate", "--", "echo", "served")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "CommandError: default: The role postgres has no schema" in ended.stderr


def test_a_command_that_cannot_be_started(start, django_database, tmp_path) -> None:
    """A program that the system cannot run causes one line and exit code 2."""
    program = tmp_path / "program"
    program.write_bytes(b"\0 no program")
    program.chmod(0o755)
    ended = start("safe_migrate", "--", str(program))
    assert ended.returncode == 2
    assert ended.stderr.endswith(
        f"The command {program} after `--` cannot be started: Exec format error. "
        "It needs a first line such as #!/bin/sh.\n"
    )


def test_called_from_python(django_database, small_shop) -> None:
    """`call_command` raises a CommandError with the exit code."""
    with pytest.raises(CommandError) as caught:
        call_command("safe_migrate", timeout=-1.0)
    assert caught.value.returncode == 2


# Another engine


@pytest.fixture
def other_engine(log_in_as, django_database, settings, tmp_path):
    """Configure `default` with an engine without a lock, and accept the risk."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "LOCK": "none"}
    file = str(tmp_path / "db.sqlite3")
    log_in_as(ENGINE="tests.other_engine", NAME=file, OPTIONS={})
    yield file
    log_in_as(**django_database.settings())


def test_check_without_a_lock(run, other_engine, shop) -> None:
    """--check reads the recorded migrations on an engine without a lock."""
    shop.write("0001_initial", INITIAL)
    ended = run("--check")
    assert ended.code == 1
    assert "not initialized for this build; 1 to apply" in ended.stderr
    assert run().code == 0
    assert run("--check").code == 0


def test_check_of_an_unknown_database(run, django_database) -> None:
    """--check of an unknown alias is a usage error."""
    assert run("--check", "--database", "nowhere").code == 2


# Checks that open the database


@pytest.fixture
def busy_check():
    """Register a check that finds the server full a number of times."""
    left = [1]

    @register
    def check_version(app_configs, **kwargs):
        if left[0]:
            left[0] -= 1
            raise OperationalError("FATAL:  sorry, too many clients already")
        return []

    return left


def test_a_check_that_finds_the_server_full(
    run, django_database, small_shop, busy_check, monkeypatch
) -> None:
    """The command repeats a check that gets no connection from a full server."""
    monkeypatch.setattr(
        "random.uniform",
        lambda low, high: low,
    )
    ended = run()
    assert ended.code == 0
    assert "[safe_init] waiting for the server: FATAL: sorry, too many" in ended.stderr


def test_a_check_that_finds_it_full_for_too_long(
    run, django_database, small_shop, busy_check, settings, monkeypatch
) -> None:
    """The command stops repeating the check after WAIT_TIMEOUT."""
    monkeypatch.setattr(
        "random.uniform",
        lambda low, high: low,
    )
    settings.SAFE_INIT = {**settings.SAFE_INIT, "WAIT_TIMEOUT": 0.3}
    busy_check[0] = 1000
    ended = run("--json")
    assert (ended.code, ended.json["result"]) == (4, "unreachable")
    assert "sorry, too many clients" in ended.json["error"]
