"""Relations that have the name of a status table and are none, odd values, and sequences."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.management import call_command

from django_safe_init import get_status, initialize
from django_safe_init.contrib import prometheus
from django_safe_init.core.build import current_build
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE
from django_safe_init.core.states import State
from django_safe_init.exceptions import MissingPrivilege, UnsafeConnection
from django_safe_init.management.commands import safe_init_status, safe_migrate
from tests.database.test_admin import RUNS, STEPS, Page, _initialize, _logged_in

FOREIGN = {
    "other columns": (
        f"CREATE TABLE {RUN_TABLE} (id bigint, text text)",
        "no column build",
    ),
    "a view": (f"CREATE VIEW {RUN_TABLE} AS SELECT 1 AS id", "it is a view"),
    "a materialized view": (
        f"CREATE MATERIALIZED VIEW {RUN_TABLE} AS SELECT 1 AS id",
        "it is a materialized view",
    ),
    "a sequence": (f"CREATE SEQUENCE {RUN_TABLE}", "it is a sequence"),
    "a type": (f"CREATE TYPE {RUN_TABLE} AS (id int)", "it is a composite type"),
    "an index": (
        f"CREATE TABLE x (id int); CREATE INDEX {STEP_TABLE} ON x (id)",
        "it is a index",
    ),
    "steps of another program": (
        f"CREATE TABLE {STEP_TABLE} (id bigint, name text)",
        "no column run_id",
    ),
}
TYPES = {
    "a number as text": (
        RUN_TABLE,
        "done TYPE text",
        "done has the type text instead of",
    ),
    "a time as text": (
        RUN_TABLE,
        "started_at TYPE text",
        "started_at has the type text",
    ),
    "a time without zone": (
        STEP_TABLE,
        "started_at TYPE timestamp",
        "started_at has the type timestamp without time zone",
    ),
    "a process id as text": (
        RUN_TABLE,
        "backend_pid TYPE text",
        "backend_pid has the type text",
    ),
}


def assert_refused(command_line: Any, *parts: str) -> None:
    """Fail unless a leader refuses with one sentence, and readers do not fail."""
    ended = command_line(safe_migrate.Command, "safe_migrate", "--force")
    assert ended.code == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    *_, sentence = ended.stderr.splitlines()
    for part in (*parts, "of the role postgres", "Rename or drop it"):
        assert part in sentence


@pytest.mark.parametrize("kind", FOREIGN)
def test_another_relation(django_database, small_shop, command_line, kind) -> None:
    """A leader names a relation that is no status table, and does not change it."""
    statement, reason = FOREIGN[kind]
    django_database.rows(statement)
    assert get_status().state is State.UNINITIALIZED
    assert_refused(command_line, reason)
    for arguments in ([], ["--json"], ["--history", "3"]):
        ended = command_line(safe_init_status.Command, "safe_init_status", *arguments)
        assert ended.code == 3, ended.stderr
    assert not django_database.has_table("shop_product")


@pytest.mark.parametrize("kind", TYPES)
def test_another_type(django_database, small_shop, command_line, kind, caplog) -> None:
    """A table with a column of another type is named; readiness comes from Django's records."""
    initialize()
    table, change, reason = TYPES[kind]
    django_database.rows(f"ALTER TABLE {table} ALTER {change}")
    assert get_status().ready
    assert_refused(command_line, table, reason)
    if table == RUN_TABLE:
        assert (
            f"Runs are not read: The table public.{table} of the role postgres"
            in caplog.text
        )


def test_another_table_of_django(django_database, small_shop, command_line) -> None:
    """A `django_migrations` without Django's columns is named with its owner."""
    django_database.rows("CREATE TABLE django_migrations (id int)")
    with pytest.raises(
        UnsafeConnection,
        match=r"rights of public\.django_migrations \(owner postgres\)",
    ):
        get_status()
    ended = command_line(safe_migrate.Command, "safe_migrate")
    assert (ended.code, "Traceback" in ended.stderr) == (2, False)


ODD = {
    "infinite times": "started_at = 'infinity', heartbeat_at = '-infinity'",
    "an infinite end": "finished_at = 'infinity', outcome = 'ready'",
    "an early time": "started_at = '0044-03-15 BC', finished_at = '0044-03-15 BC'",
    "a late time": "started_at = '99999-01-01', heartbeat_at = '99999-01-01'",
    "large numbers": "done = 2147483647, total = -2147483648, progress = -1",
    "nothing": "message = NULL, leader = NULL, command = NULL, total = NULL, done = NULL,"
    " state = NULL, backend_pid = NULL, started_at = NULL, heartbeat_at = NULL",
    "an unknown state": "state = 'x', outcome = 'x'",
    "large items": "item_done = 9223372036854775807, item_total = -1",
}


@pytest.mark.parametrize("values", ODD.values(), ids=ODD)
@pytest.mark.parametrize("is_open", [True, False])
def test_odd_values(django_database, settings, command_line, values, is_open) -> None:
    """Rows with values that this package never writes break no command, page or metric."""
    _initialize(settings)
    staff = _logged_in(is_staff=True)
    nullable = (
        "state message leader command total done backend_pid started_at heartbeat_at"
    )
    for column in nullable.split():
        django_database.rows(f"ALTER TABLE {RUN_TABLE} ALTER {column} DROP NOT NULL")
    if is_open:
        django_database.rows(
            f"UPDATE {RUN_TABLE} SET outcome = NULL, finished_at = NULL"
        )
    django_database.rows(f"UPDATE {RUN_TABLE} SET {values}")
    if "started_at = 'inf" in values:
        django_database.rows(f"UPDATE {STEP_TABLE} SET started_at = 'infinity'")
    for arguments in (["--json", "--history", "9"], ["--history", "9"]):
        ended = command_line(safe_init_status.Command, "safe_init_status", *arguments)
        assert ended.code in (0, 1, 3), ended.stderr
        assert "Traceback" not in ended.stderr
        if "--json" in arguments:
            document = json.loads(ended.stdout, parse_constant=pytest.fail)
            assert document["history"]
    assert prometheus.metrics([prometheus.sample("default", current_build())])
    for url in (RUNS, STEPS, f"{RUNS}1/"):
        Page(staff, url)
    call_command("safe_migrate", "--force", verbosity=0)
    assert (
        django_database.value(f"SELECT outcome FROM {RUN_TABLE} WHERE id = 2")
        == "ready"
    )
    assert get_status().run.id == 2


def rewind(database: Any) -> None:
    """Let the sequences begin again, as after logical replication."""
    for table in (RUN_TABLE, STEP_TABLE):
        database.rows(f"ALTER TABLE {table} ALTER id RESTART")


def test_sequences_behind_the_rows(django_database, small_shop) -> None:
    """A leader lets the sequences continue after the newest rows, also where rows are missing."""
    for _ in range(3):
        call_command("safe_migrate", "--force", verbosity=0)
    django_database.rows(f"DELETE FROM {RUN_TABLE} WHERE id < 3")
    steps = len(django_database.steps())
    rewind(django_database)
    small_shop.write("0003_new")
    initialize()
    assert [run["id"] for run in django_database.runs()] == [3, 4]
    assert len(django_database.steps()) == steps + 1
    assert get_status().run.id == 4
    rewind(django_database)
    call_command("safe_migrate", "--force", verbosity=0)
    assert get_status().run.id == 5


@pytest.mark.parametrize("is_missing", [False, True])
def test_sequences_of_another_role(
    django_database, small_shop, new_role, log_in_as, is_missing
) -> None:
    """A role that may not repair a sequence gets the GRANT, and needs it only then."""
    for _ in range(2):
        call_command("safe_migrate", "--force", verbosity=0)
    role = new_role("writer")
    django_database.rows(
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; GRANT ALL ON SCHEMA public TO {role}"
    )
    log_in_as(USER=role)
    call_command("safe_migrate", "--force", verbosity=0)
    if is_missing:
        django_database.rows(f"DELETE FROM {RUN_TABLE} WHERE id = 1")
    rewind(django_database)
    sequence = f"public.{RUN_TABLE}_id_seq"
    with pytest.raises(
        MissingPrivilege,
        match=f"{sequence} of the role postgres .* GRANT SELECT, UPDATE ON SEQUENCE {sequence} TO",
    ):
        initialize_again()
    django_database.rows(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
    initialize_again()
    assert get_status().run.id == 4


def initialize_again() -> None:
    from django_safe_init.initialization.initializer import Initializer
    from django_safe_init.initialization.migrate_command import run_migrate
    from django_safe_init.initialization.types import (
        InitializationOptions,
        MigrateTask,
    )

    task = MigrateTask(lambda: run_migrate("default", verbosity=0), "test")
    Initializer(InitializationOptions(task, force=True)).run()


def test_a_table_of_another_owner(
    django_database, small_shop, new_role, log_in_as
) -> None:
    """A role that may not change a table learns its owner and the remedy."""
    initialize()
    role = new_role("reader")
    django_database.rows(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    log_in_as(USER=role)
    with pytest.raises(MissingPrivilege, match=r"owner postgres.*GRANT SELECT, INSERT"):
        initialize_again()
    django_database.rows(
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};"
        f" ALTER TABLE {RUN_TABLE} DROP COLUMN error"
    )
    with pytest.raises(
        MissingPrivilege, match=f'ALTER TABLE {RUN_TABLE} OWNER TO "reader"'
    ):
        initialize_again()
