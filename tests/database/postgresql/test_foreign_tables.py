"""Relations that have the name of a status table and are none, odd values, and sequences."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from django.core.management import call_command

from django_safe_init import get_status, initialize
from django_safe_init.backends.postgresql.refused_rows import refusal
from django_safe_init.contrib import prometheus
from django_safe_init.core.build import current_build
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE
from django_safe_init.core.states import State
from django_safe_init.exceptions import MissingPrivilege, UnsafeConnection
from django_safe_init.management.commands import safe_init_status, safe_migrate
from tests.database.test_admin import (
    RUNS,
    STEPS,
    Page,
    _logged_in,
    configure_admin,
    initialize_admin,
)

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
    configure_admin(settings)
    initialize_admin()
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


def test_a_sequence_that_the_column_does_not_own(
    django_database, small_shop, command_line
) -> None:
    """A leader repairs the sequence of a default, also if the default names it as text."""
    for _ in range(2):
        call_command("safe_migrate", "--force", verbosity=0)
    for table in (RUN_TABLE, STEP_TABLE):
        for sequence in ("s'2", "S3"):
            name = f'public."{table} {sequence}"'
            value = name.replace("'", "''")
            text = "::text" if sequence == "S3" else ""
            django_database.rows(
                f"ALTER TABLE {table} ALTER id DROP IDENTITY IF EXISTS;"
                f"CREATE SEQUENCE {name};"
                f"ALTER TABLE {table} ALTER id SET DEFAULT nextval('{value}'{text})"
            )
            small_shop.write(f"{table}_{sequence[0]}")
            ended = command_line(safe_migrate.Command, "safe_migrate", "--force")
            assert ended.code == 0, ended.stderr
    assert [run["id"] for run in django_database.runs()] == [1, 2, 3, 4, 5, 6]
    assert get_status().run.id == 6


EXTRA = (
    "ALTER TABLE {} ADD extra int; UPDATE {} SET extra = 1;"
    " ALTER TABLE {} ALTER extra SET NOT NULL"
)
TRIGGER = (
    "CREATE FUNCTION nope() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;"
    "CREATE TRIGGER nope BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION nope()"
)
REFUSING = {
    "no default": (
        "ALTER TABLE {} ALTER id DROP IDENTITY",
        "its column id has no default",
    ),
    "a copy": (
        "ALTER TABLE {} RENAME TO x; CREATE TABLE {} AS TABLE x",
        "its column id has no default",
    ),
    "another column": (
        EXTRA,
        "its column extra is NOT NULL and has no default",
    ),
    "a rule": (
        "CREATE RULE none AS ON INSERT TO {} DO INSTEAD NOTHING",
        "it has a rule ON INSERT DO INSTEAD",
    ),
    "a trigger without a row": (
        TRIGGER.format(table="{}", body="RETURN NULL;"),
        "a trigger or a rule left the row out",
    ),
    "a trigger with an error": (
        TRIGGER.format(table="{}", body="RAISE 'not today';"),
        "not today",
    ),
    "the last id": (
        "UPDATE {} SET id = 9223372036854775807 WHERE id = 1",
        "reached maximum value of sequence",
    ),
    "a short sequence": (
        "ALTER TABLE {} ALTER id SET MAXVALUE 2 SET START 1 RESTART",
        "",
    ),
    "a constraint": (
        "ALTER TABLE {} ADD CONSTRAINT none CHECK (id < 3)",
        'violates check constraint "none"',
    ),
    "a sequence without a schema": (
        "CREATE SEQUENCE s2; ALTER TABLE {} ALTER id DROP IDENTITY;"
        " ALTER TABLE {} ALTER id SET DEFAULT nextval('s2'::text)",
        'relation "s2" does not exist',
    ),
    "equal ids": (
        "ALTER TABLE {} ALTER id DROP IDENTITY; ALTER TABLE {} ALTER id SET DEFAULT 1",
        "duplicate key value",
    ),
    "a generated column": (
        "ALTER TABLE {} DROP COLUMN started_at; ALTER TABLE {} ADD started_at timestamptz"
        " GENERATED ALWAYS AS ('2026-01-01 00:00+00'::timestamptz) STORED",
        'cannot insert a non-DEFAULT value into column "started_at"',
    ),
}


@pytest.mark.parametrize("table", [RUN_TABLE, STEP_TABLE])
def test_a_trigger_that_takes_each_row(django_database, small_shop, table) -> None:
    """A trigger that lets the rows in does not disturb a run."""
    initialize()
    django_database.rows(TRIGGER.format(table=table, body="RETURN NEW;"))
    small_shop.run("0003_new", lambda connection: None)
    assert initialize().role == "leader"


@pytest.mark.parametrize("kind", REFUSING)
@pytest.mark.parametrize("table", [RUN_TABLE, STEP_TABLE])
def test_a_table_that_takes_no_row(
    django_database, small_shop, command_line, table, kind
) -> None:
    """A leader names a table of its own that takes no row, with its owner and the remedy."""
    for _ in range(2):
        call_command("safe_migrate", "--force", verbosity=0)
    change, reason = REFUSING[kind]
    django_database.rows(change.replace("{}", table))
    small_shop.run("0003_new", lambda connection: None, atomic=False)
    ended = command_line(safe_migrate.Command, "safe_migrate", "--force")
    assert ended.code == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    *_, sentence = ended.stderr.splitlines()
    assert f"The table public.{table} of the role postgres takes no row" in sentence
    assert reason in sentence
    assert "s its owner" in sentence
    assert "shop.0003_new" in get_status().pending
    if "no default" in reason and "column id" in reason:
        remedy = sentence.split("As its owner: ")[1]
        django_database.rows(remedy)
        initialize()
        assert get_status().ready


def test_ids_that_fall(django_database, small_shop, command_line) -> None:
    """A run whose id is not the newest is refused."""
    call_command("safe_migrate", "--force", verbosity=0)
    django_database.rows(
        f"ALTER TABLE {RUN_TABLE} ALTER id DROP IDENTITY;"
        f" ALTER TABLE {RUN_TABLE} ALTER id SET DEFAULT -5"
    )
    ended = command_line(safe_migrate.Command, "safe_migrate", "--force")
    assert ended.code == 2, ended.stderr
    assert "a new id is not higher than all others" in ended.stderr


@pytest.mark.parametrize("table", [RUN_TABLE, STEP_TABLE])
def test_row_security(
    django_database, small_shop, new_role, log_in_as, command_line, table
) -> None:
    """Row security is named; a GRANT could not help."""
    initialize()
    role = new_role("writer")
    django_database.rows(
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};"
        f" GRANT ALL ON SCHEMA public TO {role};"
        f" ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"
    )
    log_in_as(USER=role)
    ended = command_line(safe_migrate.Command, "safe_migrate", "--force")
    assert ended.code == 2, ended.stderr
    assert f"The table public.{table} of the role postgres takes no row" in ended.stderr
    assert "GRANT" not in ended.stderr
    django_database.rows(ended.stderr.split("As its owner: ")[1])
    assert command_line(safe_migrate.Command, "safe_migrate", "--force").code == 0


@pytest.mark.parametrize("table", [RUN_TABLE, STEP_TABLE])
def test_a_sequence_without_rights(
    django_database, small_shop, new_role, log_in_as, command_line, table
) -> None:
    """A role that may not use the sequence of a default gets the GRANT for it."""
    initialize()
    role = new_role("writer")
    django_database.rows(
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};"
        f" GRANT ALL ON SCHEMA public TO {role};"
        f" ALTER TABLE {table} ALTER id DROP IDENTITY; CREATE SEQUENCE s2;"
        f" ALTER TABLE {table} ALTER id SET DEFAULT nextval('s2')"
    )
    small_shop.write("0003_new")
    log_in_as(USER=role)
    ended = command_line(safe_migrate.Command, "safe_migrate", "--force")
    assert ended.code == 2, ended.stderr
    assert "GRANT USAGE, SELECT, UPDATE ON SEQUENCE public.s2" in ended.stderr
    django_database.rows(ended.stderr.split("As its owner: ")[1])
    assert command_line(safe_migrate.Command, "safe_migrate", "--force").code == 0


def test_a_table_that_was_renamed(django_database, small_shop, command_line) -> None:
    """Indexes that a renamed table has kept are named, and no table is half made."""
    initialize()
    django_database.rows(f"ALTER TABLE {STEP_TABLE} RENAME TO old")
    ended = command_line(safe_migrate.Command, "safe_migrate", "--force")
    assert ended.code == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    *_, sentence = ended.stderr.splitlines()
    assert f"The table {STEP_TABLE} cannot be created: relation" in sentence
    assert "Rename or drop that relation." in sentence
    assert not django_database.has_table(STEP_TABLE)


def test_a_refusal_without_a_table(open_session) -> None:
    """A dropped table is named without an owner, and a lost session tells nothing."""
    session = open_session()
    error = psycopg.errors.UndefinedTable("gone")
    assert refusal(session, psycopg.errors.DiskFull("full"), RUN_TABLE) is None
    named = refusal(session, error, RUN_TABLE)
    assert "of the role ? takes no row of this package: gone" in str(named)
    session.close()
    assert refusal(session, error, RUN_TABLE) is None
