"""Text that another program wrote reaches no terminal, log or page as it is."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr, suppress
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connections
from rich.console import Console

from django_safe_init import initialize
from django_safe_init.backends.postgresql.lock_keys import leader_key, work_key
from django_safe_init.conf import get_settings
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE
from django_safe_init.core.text import printable
from django_safe_init.exceptions import InitializationFailed
from django_safe_init.management.commands import (
    migrate,
    safe_init_status,
    safe_init_unlock,
    safe_init_validate,
    safe_migrate,
)
from django_safe_init.management.console import rich_table
from django_safe_init.management.live_view import StatusView
from django_safe_init.management.watch import PlainOutput
from django_safe_init.serving.http import payloads
from django_safe_init.serving.http.page import status_page
from django_safe_init.status import open_reader, read_detail, read_history
from tests.database.test_admin import _logged_in, configure_admin
from tests.support import wait_until

#: Escape sequences, marks and line feeds, also for a parser of markup.
HOSTILE = "x\x1b[2J\x9b\x07\u202e\u200b\u2028\x85[/b]\r\nFORGED ready"
ROLE = "r\x1b[2J\u202e\nFORGED"
COMMANDS = {
    "migrate": migrate.Command,
    "safe_init_status": safe_init_status.Command,
    "safe_init_unlock": safe_init_unlock.Command,
    "safe_init_validate": safe_init_validate.Command,
    "safe_migrate": safe_migrate.Command,
}


def assert_printable(text: str) -> None:
    """Fail if the text has an unprintable character, or a line that another program forged."""
    for line in text.split("\n"):
        assert printable(line) == line, text
        assert not line.lstrip("| ").startswith("FORGED") or line.startswith("| "), text


@pytest.fixture
def log(caplog) -> Iterator[Any]:
    """Yield the captured log, which must be printable at the end."""
    caplog.set_level(logging.DEBUG, "django_safe_init")
    yield caplog
    assert_printable(caplog.text)


@pytest.fixture
def hostile(
    django_database, small_shop, settings, new_role, connect_raw, in_background, log
) -> Iterator[Any]:
    """Yield a database in which every text that a stranger can write is hostile.

    A leader waits for a lock of a role with a hostile name, application name and statement.
    """
    settings.SAFE_INIT = {"IN_TESTS": True, "MAX_WAIT": 1, "CONNECT_TIMEOUT": 2}
    initialize()
    role = new_role(ROLE)
    django_database.rows(f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{role}"')
    stranger = connect_raw(user=role, application_name="evil\x1b[2J")
    stranger.autocommit = False
    stranger.execute(f"LOCK TABLE shop_product /* {HOSTILE} */")
    leader = connect_raw(user=role, application_name="safe_init\x1b[2J")
    leader.execute("SELECT pg_advisory_lock(%s)", [leader_key()])
    leader.execute("SELECT pg_advisory_lock_shared(%s)", [work_key()])
    _write_rows(django_database, leader.info.backend_pid)
    django_database.rows(f'CREATE INDEX "{HOSTILE}" ON shop_sale (id)')
    django_database.rows(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid IN"
        " (SELECT oid FROM pg_class WHERE relname LIKE 'x%FORGED%')"
    )
    small_shop.write("0003_pending")

    def wait() -> None:
        with suppress(psycopg.Error):
            leader.execute(f"UPDATE shop_product SET id = 1 /* {HOSTILE} */")

    in_background(wait)
    wait_until(lambda: django_database.backends("wait_event_type = 'Lock'"))
    yield django_database
    stranger.rollback()


def _write_rows(database: Any, leader_pid: int) -> None:
    texts = (
        "leader",
        "command",
        "message",
        "error",
        "item_message",
        "traceback",
        "version",
        "state",
    )
    columns = ", ".join(f"{name} = %s" for name in texts)
    database.rows(
        f"UPDATE {RUN_TABLE} SET {columns}, outcome = 'failed', item_done = 1",
        *[HOSTILE] * len(texts),
    )
    database.rows(
        f"INSERT INTO {RUN_TABLE} (build, backend_pid, total, started_at, heartbeat_at,"
        " item_done, state, leader, command, message, error, item_message, version)"
        " VALUES ('x', %s, 3, now(), now(), 1, 'migrating', %s, %s, %s, %s, %s, %s)",
        leader_pid,
        *[HOSTILE] * 6,
    )
    database.rows(
        f"INSERT INTO {STEP_TABLE} (run_id, position, kind, name, started_at, outcome)"
        f" SELECT max(id), 1, %s, %s, now(), %s FROM {RUN_TABLE}",
        *[HOSTILE] * 3,
    )
    database.rows(
        "INSERT INTO django_migrations (app, name, applied) VALUES ('shop', %s, now())",
        HOSTILE,
    )


@pytest.mark.parametrize(
    "line",
    [
        "migrate",
        "safe_init_status",
        "safe_init_status --history 9",
        "safe_init_status --json --history 9",
        "safe_init_status --run 1",
        "safe_init_status --run 2 --json",
        "safe_init_status --wait --timeout 0.5",
        "safe_init_unlock",
        "safe_init_validate",
        "safe_init_validate --json",
        "safe_migrate",
        "safe_migrate --json",
        "safe_migrate --force --traceback",
        "safe_migrate --check",
        "safe_migrate --plan",
    ],
)
def test_commands(hostile, command_line, line) -> None:
    """The output of every command is printable, and its JSON is one object on one line."""
    name, *arguments = line.split()
    ended = command_line(COMMANDS[name], name, *arguments)
    assert_printable(ended.stdout)
    assert_printable(ended.stderr)
    if "--json" in arguments:
        assert isinstance(json.loads(ended.stdout), dict)
    quoted = ended.stdout + ended.stderr
    assert "FORGED" in quoted or "--" in line or name == "migrate", quoted


def test_live_view(hostile) -> None:
    """The live view and the table of runs are printable, and parse no markup."""
    console = Console(file=io.StringIO(), width=200, height=60, force_terminal=True)
    console._color_system = None
    with closing(open_reader("default", get_settings(), Deadline(0))) as reader:
        detail = read_detail("default", reader, None)
        assert detail.activity is not None
        assert detail.activity.blockers
        console.print(StatusView(detail, notice=HOSTILE))
        console.print(rich_table(read_history("default", reader, 9)))
    text = console.file.getvalue()
    assert "FORGED" in text
    assert_printable(text)


def test_plain_watch(hostile) -> None:
    """The lines of `--watch` are printable."""
    stream = io.StringIO()
    output = PlainOutput("default", stream)
    with closing(open_reader("default", get_settings(), Deadline(0))) as reader:
        output.show_status(reader)
    output.report(HOSTILE)
    assert_printable(stream.getvalue())


def test_pages(hostile, settings) -> None:
    """The page and the JSON with the token are printable."""
    settings.DEBUG = True
    with closing(open_reader("default", get_settings(), Deadline(0))) as reader:
        detail = read_detail("default", reader, None)
    page = status_page([detail], "/status", "/", 3).content.decode()
    assert "FORGED" in page
    assert_printable(page.replace("\t", ""))
    details = json.dumps(payloads.details([detail]))
    assert_printable(details)


@pytest.mark.parametrize("url", ["run/", "step/", "run/{id}/"])
def test_admin(hostile, settings, url) -> None:
    """The pages of the admin are printable."""
    configure_admin(settings)
    newest = hostile.newest_run()["id"]
    hostile.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
    )
    call_command("migrate", "auth", verbosity=0)
    client = _logged_in(is_staff=True)
    response = client.get(f"/admin/django_safe_init/{url.format(id=newest)}")
    page = response.content.decode()
    assert response.status_code == 200
    assert response["X-Content-Type-Options"] == "nosniff"
    assert "FORGED" in page
    for character in HOSTILE:
        assert character in "x[2J/b]\n\r FORGEDready" or character not in page
    assert "\nFORGED" not in page


def fail(shop: Any) -> Callable[[Any], None]:
    def refuse(connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s::int", [HOSTILE])

    shop.run("0003_fail", refuse)
    return refuse


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--traceback"]])
def test_error_of_a_migration(
    django_database, small_shop, command_line, log, arguments
) -> None:
    """A migration's error is printable in the leader's output, log, row and traceback."""
    fail(small_shop)
    ended = command_line(safe_migrate.Command, "safe_migrate", *arguments)
    assert ended.code == 1
    assert_printable(ended.stdout)
    assert_printable(ended.stderr)
    assert "FORGED" in ended.stdout + ended.stderr
    if arguments == ["--traceback"]:
        assert "\n| Traceback (most recent call last):\n" in ended.stderr
    assert "\n| Traceback (most recent call last):\n" in log.text
    error = django_database.newest_run()["error"]
    assert "FORGED" in error
    assert printable(error) == error


def test_uncaught_error(
    django_database, small_shop, command_line, log, monkeypatch
) -> None:
    """Python prints the error of a migration that `migrate` raises with marked lines.

    A project's own hook for uncaught errors is still called.
    """
    called = []

    def hook(*error: Any) -> None:
        called.append(error)
        sys.__excepthook__(*error)

    fail(small_shop)
    monkeypatch.setattr(sys, "excepthook", hook)
    with pytest.raises(Exception, match="FORGED") as caught:
        command_line(migrate.Command, "migrate")
    with redirect_stderr(io.StringIO()) as stderr:
        sys.excepthook(caught.type, caught.value, caught.tb)
    text = stderr.getvalue()
    assert called == [(caught.type, caught.value, caught.tb)]
    assert text.startswith("| ")
    assert "| Traceback (most recent call last):\n" in text
    assert_printable(text)


def test_a_silent_hook(monkeypatch, capsys) -> None:
    """A project's hook that prints nothing leaves the terminal empty."""
    from django_safe_init.management.console import printable_uncaught_errors

    monkeypatch.setattr(sys, "excepthook", lambda *error: None)
    with pytest.raises(ValueError, match="FORGED"), printable_uncaught_errors():
        raise ValueError(HOSTILE)
    sys.excepthook(ValueError, ValueError(HOSTILE), None)
    assert capsys.readouterr().err == ""


def test_errors_raised_to_a_project(django_database, small_shop) -> None:
    """The text of an error that `initialize()` raises is one printable line."""
    fail(small_shop)
    with pytest.raises(InitializationFailed) as caught:
        initialize()
    assert_printable(str(caught.value))
    assert "\n" not in str(caught.value)


def test_an_ascii_terminal(django_database, small_shop) -> None:
    """A character that the terminal's encoding lacks is escaped."""
    connections["default"].close()
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii")
    command = safe_init_status.Command(stdout=stream)
    command.stdout.write("ü")
    stream.flush()
    assert raw.getvalue() == b"\\xfc\n"
