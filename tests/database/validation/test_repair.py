"""`safe_init_validate --repair` shows statements, runs them under the lock, and validates again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from django_safe_init import initialize
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.sqlite3.lock_file import FileLock
from django_safe_init.core.findings import Finding, FindingKind
from django_safe_init.initialization.repair import automatic_statements
from django_safe_init.management.commands.safe_init_validate import Command
from django_safe_init.validation import validate_database

APPS = ["django_safe_init", "django.contrib.contenttypes", "django.contrib.auth"]
DOOR = "shelves_door_room_id_851e9661_fk_shelves_room_code"
DROP_KEY = f"ALTER TABLE shelves_door DROP CONSTRAINT {DOOR}"
ADD_KEY = (
    f'ALTER TABLE "shelves_door" ADD CONSTRAINT "{DOOR}" FOREIGN KEY ("room_id")'
    ' REFERENCES "shelves_room" ("code") DEFERRABLE INITIALLY DEFERRED NOT VALID;'
)
CHECK_KEY = f'ALTER TABLE "shelves_door" VALIDATE CONSTRAINT "{DOOR}";'
ADD_INDEX = 'CREATE INDEX CONCURRENTLY "shelf_order" ON "shelves_shelf" ("height", "width" DESC);'
ORPHAN = "INSERT INTO shelves_door (room_id, outside_id) VALUES ('none', 1)"
BREAK_INDEX = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{}'::regclass"


@pytest.fixture
def shelves(initialize_as: Callable[..., Any], settings: Any) -> Any:
    """The migrated app on PostgreSQL."""
    settings.INSTALLED_APPS = [*APPS, "tests.database.apps.shelves"]
    return initialize_as("shelves", initialize)


@pytest.fixture
def lite_shelves(lite: Any, settings: Any) -> Any:
    """The migrated app on SQLite."""
    settings.INSTALLED_APPS = [*APPS, "tests.database.apps.shelves"]
    initialize()
    return lite


@pytest.fixture
def validate(command_line):
    """Return a function that runs the command from a command line."""
    return partial(command_line, Command, "safe_init_validate")


@pytest.fixture
def repair(validate):
    """Return a function that runs the command with `--repair`, and asks nothing."""
    return partial(validate, "--repair", "--no-input")


def run(database: Any, *statements: str) -> None:
    for statement in statements:
        database.rows(statement)


def kinds() -> list[str]:
    return [each.kind.value for each in validate_database("default", print).findings]


def test_repair(shelves, repair) -> None:
    """Indexes come first, then constraints, then the checks of older rows."""
    runs = shelves.runs()
    run(
        shelves,
        DROP_KEY,
        "DROP INDEX shelf_order",
        BREAK_INDEX.format("shelf_lower"),
        "ALTER TABLE shelves_shelf ADD CONSTRAINT tall CHECK (height > 0) NOT VALID",
        "ALTER TABLE shelves_room DROP CONSTRAINT shelves_room_name_key CASCADE",
    )
    ended = repair("--strict")
    assert ended.code == 0, ended
    named = "shelves_shelf_Named By_2509bbd0_fk_shelves_room_name"
    statements = [
        'CREATE UNIQUE INDEX CONCURRENTLY "shelves_room_name_uniq" ON "shelves_room" ("name");',
        'ALTER TABLE "shelves_room" ADD CONSTRAINT "shelves_room_name_uniq" UNIQUE'
        ' USING INDEX "shelves_room_name_uniq";',
        ADD_INDEX,
        f'ALTER TABLE "shelves_shelf" ADD CONSTRAINT "{named}" FOREIGN KEY ("Named By")'
        ' REFERENCES "shelves_room" ("name") DEFERRABLE INITIALLY DEFERRED NOT VALID;',
        ADD_KEY,
        "REINDEX INDEX CONCURRENTLY shelf_lower;",
        f'ALTER TABLE "shelves_shelf" VALIDATE CONSTRAINT "{named}";',
        CHECK_KEY,
        "ALTER TABLE shelves_shelf VALIDATE CONSTRAINT tall;",
    ]
    assert ended.stdout.splitlines() == [
        "default: --repair runs these statements:",
        *(f"    {each}" for each in statements),
        *(f"default: done: {each}" for each in statements),
        "default: 12 tables are what this build's models need",
    ]
    assert shelves.runs() == runs
    again = repair()
    assert again.stdout.splitlines()[0] == "default: --repair has nothing to do"


def test_repair_on_sqlite(lite_shelves, repair) -> None:
    """On SQLite missing indexes are added."""
    run(lite_shelves, "DROP INDEX shelf_order", "DROP INDEX shelf_narrow")
    ended = repair("--strict")
    assert ended.code == 0, ended
    assert ended.stdout.count("done: CREATE INDEX") == 2


def test_json(shelves, repair) -> None:
    """With --json, standard output has the object of the validation after the repair."""
    shelves.rows("DROP INDEX shelf_order")
    ended = repair("--json")
    [database] = ended.json["databases"]
    assert (database["valid"], database["findings"], ended.code) == (True, [], 0)
    assert f"default: done: {ADD_INDEX}" in ended.stderr


@pytest.mark.parametrize(("answer", "is_repaired"), [("y", True), ("", False)])
def test_a_question(shelves, validate, monkeypatch, answer, is_repaired) -> None:
    """Without --no-input the command asks before it runs the statements."""
    shelves.rows("DROP INDEX shelf_order")
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr("builtins.input", lambda: answer)
    ended = validate("--repair")
    assert f"    {ADD_INDEX}\nRun them now? [y/N] " in ended.stdout
    assert (kinds() == []) is is_repaired
    assert ended.code == (0 if is_repaired else 1)
    assert ("Nothing was repaired." in ended.stderr) is not is_repaired


def test_no_terminal(shelves, validate, monkeypatch) -> None:
    """Without a terminal nothing is run, and the error names --noinput."""
    shelves.rows("DROP INDEX shelf_order")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    ended = validate("--repair")
    assert ended.code == 1
    assert "Nothing was repaired: there is no terminal" in ended.stderr
    assert kinds() == ["missing_index"]


def test_lost_data_is_only_shown(shelves, repair) -> None:
    """A missing table or column, and what depends on it, is left to a person."""
    run(shelves, "DROP INDEX shelf_lower", "DROP TABLE shelves_room CASCADE")
    ended = repair()
    assert ended.code == 1
    assert ended.stdout.count("done:") == 1
    assert "missing_table (error)" in ended.stdout
    assert set(kinds()) == {"missing_table", "missing_foreign_key"}


def test_rows_that_violate_a_foreign_key(shelves, repair) -> None:
    """The constraint stays NOT VALID, and the error counts the rows and shows a query."""
    run(shelves, DROP_KEY, ORPHAN, "DROP INDEX shelf_order")
    ended = repair()
    assert ended.code == 1
    query = (
        "SELECT * FROM public.shelves_door AS c WHERE c.room_id IS NOT NULL AND NOT EXISTS"
        " (SELECT FROM public.shelves_room AS t WHERE t.code = c.room_id);"
    )
    assert "failed after 2 of 3 statements" in ended.stderr
    assert "1 row violates the constraint, which stays NOT VALID. " in ended.stderr
    assert query in ended.stderr
    assert f"Not done: {CHECK_KEY}" in ended.stderr
    assert kinds() == ["not_valid_constraint"]
    run(shelves, query.replace("SELECT *", "DELETE", 1))
    assert repair("--strict").code == 0


def test_rows_that_violate_a_check(shelves, repair) -> None:
    """The rows that a check refuses are counted, too."""
    run(
        shelves,
        "INSERT INTO auth_group (name) VALUES ('a'), ('b')",
        """ALTER TABLE auth_group ADD CONSTRAINT "Long ""name" CHECK (name > 'x') NOT VALID""",
    )
    ended = repair()
    assert ended.code == 1
    assert "2 rows violate the constraint" in ended.stderr
    assert "SELECT * FROM public.auth_group AS c WHERE NOT (" in ended.stderr


def test_rows_that_are_not_unique(shelves, repair) -> None:
    """The first statement that fails ends the repair; the error lists what is left."""
    run(
        shelves,
        "ALTER TABLE auth_group DROP CONSTRAINT auth_group_name_key",
        "INSERT INTO auth_group (name) VALUES ('a'), ('a')",
        "DROP INDEX shelf_order",
    )
    ended = repair("--json")
    assert ended.code == 1
    assert "(name)=(a) is duplicated" in ended.json["error"]
    assert "failed after 0 of 3 statements" in ended.json["error"]
    assert f"\n    {ADD_INDEX}" in ended.json["error"]
    run(shelves, "DELETE FROM auth_group")
    assert repair("--strict").code == 0  # what the first attempt left is built again


def test_after_a_kill(shelves, repair) -> None:
    """An index that a killed repair has left is built again, and its leftovers are dropped."""
    run(
        shelves,
        BREAK_INDEX.format("shelf_order"),
        "CREATE INDEX shelf_order_ccnew ON shelves_shelf (height, width DESC)",
        BREAK_INDEX.format("shelf_order_ccnew"),
    )
    ended = repair("--strict")
    assert ended.code == 0, ended
    assert "done: REINDEX INDEX CONCURRENTLY shelf_order;" in ended.stdout
    assert "done: DROP INDEX CONCURRENTLY shelf_order_ccnew;" in ended.stdout


def test_a_leader_at_work(shelves, repair, open_session) -> None:
    """While another process leads, nothing is repaired; exit code 3."""
    shelves.rows("DROP INDEX shelf_order")
    assert AdvisoryLock(open_session()).try_acquire()
    ended = repair()
    assert ended.code == 3
    assert "Nothing was repaired in database 'default': " in ended.stderr
    assert kinds() == ["missing_index"]


def test_a_leader_at_work_on_sqlite(lite_shelves, repair, monkeypatch) -> None:
    """The same on SQLite."""
    lite_shelves.rows("DROP INDEX shelf_order")
    monkeypatch.setattr(FileLock, "try_acquire", lambda lock: False)
    ended = repair()
    assert ended.code == 3
    assert "another process leads" in ended.stderr


def test_a_run_in_between(shelves, repair, monkeypatch) -> None:
    """Statements that the database no longer needs are not run."""
    shelves.rows("DROP INDEX shelf_order")
    acquire = AdvisoryLock.try_acquire

    def repair_first(lock: AdvisoryLock) -> bool:
        shelves.rows(ADD_INDEX)
        return acquire(lock)

    monkeypatch.setattr(AdvisoryLock, "try_acquire", repair_first)
    ended = repair("--strict")
    assert ended.code == 0
    assert "done:" not in ended.stdout


def test_a_lock_that_is_not_free(shelves, repair, settings, connect_raw) -> None:
    """A statement that would block other sessions gives up after `DDL_LOCK_TIMEOUT`."""
    shelves.rows(DROP_KEY)
    settings.SAFE_INIT = {"IN_TESTS": True, "DDL_LOCK_TIMEOUT": 0.05}
    raw = connect_raw()
    raw.execute("BEGIN; LOCK shelves_door")
    ended = repair()
    assert ended.code == 1
    assert "canceling statement due to lock timeout" in ended.stderr
    raw.execute("ROLLBACK")
    assert repair("--strict").code == 0


def test_a_lost_connection(shelves, repair, monkeypatch) -> None:
    """A repair whose connection is ended can be run again; exit code 5."""
    run(shelves, "DROP INDEX shelf_order")
    from django_safe_init.backends.postgresql import run_session

    def lose(connection: Any, statement: str, timeout: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with monkeypatch.context() as patched:
        patched.setattr(run_session, "run_repair", lose)
        ended = repair()
    assert ended.code == 5
    assert "Run safe_init_validate --repair again." in ended.stderr
    assert repair("--strict").code == 0


def test_the_order_of_statements() -> None:
    """Findings without an automatic repair have no statements."""

    def finding(kind: FindingKind, *repair: str, automatic: bool = True) -> Finding:
        return Finding(kind, "warn", "", None, "", repair, automatic)

    found = [
        finding(FindingKind.NOT_VALID_CONSTRAINT, "CHECK OLD"),
        finding(FindingKind.MISSING_TABLE, "TABLE", automatic=False),
        finding(FindingKind.MISSING_FOREIGN_KEY, "KEY", "CHECK KEY"),
        finding(FindingKind.MISSING_INDEX, "INDEX"),
    ]
    assert automatic_statements(found) == ["KEY", "INDEX", "CHECK OLD", "CHECK KEY"]
