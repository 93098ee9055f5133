"""Validation finds differences in real databases, and its repairs remove them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection, connections
from django.db.migrations.recorder import MigrationRecorder

from django_safe_init import ValidationFailed, initialize
from django_safe_init.backends.postgresql.introspection import PostgresIntrospection
from django_safe_init.core.build import current_build
from django_safe_init.core.findings import Finding, FindingKind
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from django_safe_init.management.commands.safe_init_validate import Command
from django_safe_init.validation import validate_database
from tests.support import wait_until

#: Statements that break a database of any engine, with the kind and object of the finding.
BREAKS = {
    "a table": ("DROP TABLE library_reading", "missing_table", "library_reading"),
    "a table between": (
        "DROP TABLE library_book_editors",
        "missing_table",
        "library_book_editors",
    ),
    "a composite key's table": (
        "DROP TABLE library_loan",
        "missing_table",
        "library_loan",
    ),
    "a column": (
        "ALTER TABLE library_reading DROP COLUMN at",
        "missing_column",
        "library_reading.at",
    ),
    "a condition": (
        "DROP INDEX book_published",
        "missing_unique",
        "book_published",
    ),
    "expressions": ("DROP INDEX book_lower", "missing_unique", "book_lower"),
}
#: Statements that break only PostgreSQL.
POSTGRES_BREAKS = {
    "a unique field": (
        'ALTER TABLE library_book DROP CONSTRAINT "library_book_ISBN Number_key"',
        "missing_unique",
        "library_book (ISBN Number)",
    ),
    "a unique constraint": (
        "ALTER TABLE library_book DROP CONSTRAINT book_title",
        "missing_unique",
        "book_title",
    ),
    "one that is checked later": (
        "ALTER TABLE library_book DROP CONSTRAINT book_later",
        "missing_unique",
        "book_later",
    ),
    "one that covers": (
        "DROP INDEX book_covering",
        "missing_unique",
        "book_covering",
    ),
    "one of equal NULLs": (
        "ALTER TABLE library_book DROP CONSTRAINT book_nulls",
        "missing_unique",
        "book_nulls",
    ),
    "a long name": (
        f'DROP INDEX "{("long_" * 15)[:63]}"',
        "missing_unique",
        "long_" * 15,
    ),
    "a primary key": (
        "ALTER TABLE library_reading DROP CONSTRAINT library_reading_pkey",
        "missing_unique",
        "library_reading (id)",
    ),
    "a composite key": (
        "ALTER TABLE library_loan DROP CONSTRAINT library_loan_pkey",
        "missing_unique",
        "library_loan (book_id, day)",
    ),
    "a unique column": (
        "ALTER TABLE library_novel DROP COLUMN genre",
        "missing_column",
        "library_novel.genre",
    ),
    "a foreign key": (
        "ALTER TABLE library_reading DROP COLUMN book_id",
        "missing_column",
        "library_reading.book_id",
    ),
    "a generated column": (
        "ALTER TABLE library_book DROP COLUMN length",
        "missing_column",
        "library_book.length",
    ),
    "a default": (
        "ALTER TABLE library_book DROP COLUMN draft CASCADE;"
        "CREATE UNIQUE INDEX book_covering ON library_book (shelf, pages);"
        "CREATE UNIQUE INDEX book_published ON library_book (title) WHERE shelf = ''",
        "missing_column",
        "library_book.draft",
    ),
    "an invalid index": (
        "CREATE INDEX broken ON library_book (pages);"
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass",
        "invalid_index",
        "broken",
    ),
    "what REINDEX left": (
        'CREATE INDEX "Broken_ccnew1" ON library_book (pages);'
        "UPDATE pg_index SET indisvalid = false"
        " WHERE indexrelid = '\"Broken_ccnew1\"'::regclass",
        "invalid_index",
        '"Broken_ccnew1"',
    ),
    "a constraint": (
        'ALTER TABLE library_book ADD CONSTRAINT "Some Pages" CHECK (pages > 0) NOT VALID',
        "not_valid_constraint",
        "library_book.Some Pages",
    ),
}
#: Options for a whole run, also when the database is initialized.
FORCED = InitializationOptions(
    MigrateTask(lambda: run_migrate("default"), "test"), force=True
)
LIBRARY = ["django_safe_init", "django.contrib.contenttypes", "django.contrib.auth"]
APPS = "tests.database.apps"


@pytest.fixture
def install(settings: Any) -> Callable[..., None]:
    """Return a function that installs these apps beside Django's."""

    def install_all(*names: str) -> None:
        settings.INSTALLED_APPS = [*LIBRARY, *(f"{APPS}.{name}" for name in names)]

    return install_all


@pytest.fixture
def library(initialize_as: Callable[..., Any], install: Callable[..., None]) -> Any:
    """The migrated library on PostgreSQL."""
    install("library")
    return initialize_as("library", initialize)


@pytest.fixture
def lite_library(lite: Any, install: Callable[..., None]) -> Any:
    """The migrated library on SQLite."""
    install("library")
    initialize()
    return lite


@pytest.fixture(params=["postgresql", "sqlite"])
def any_library(request: pytest.FixtureRequest) -> Any:
    """The migrated library on each engine."""
    names = {"postgresql": "library", "sqlite": "lite_library"}
    return request.getfixturevalue(names[request.param])


@pytest.fixture
def stacks(initialize_as: Callable[..., Any], install: Callable[..., None]) -> Any:
    """The migrated app with features that only PostgreSQL has."""
    install("stacks")
    return initialize_as("stacks", initialize)


def model(name: str) -> Any:
    return apps.get_model("library", name)


def findings(database: str = "default") -> tuple[Finding, ...]:
    return validate_database(database, print).findings


def only() -> Finding:
    """Return the only finding."""
    [finding] = findings()
    return finding


def run(database: Any, statements: str) -> None:
    for statement in statements.split(";"):
        database.rows(statement)


def repair(database: Any) -> None:
    """Run the repairs of all findings, in order."""
    for finding in findings():
        assert finding.repair, finding
        for statement in finding.repair:
            database.rows(statement)


# Nothing is found


def test_nothing_is_found(any_library) -> None:
    """Validation finds nothing in a migrated database with many kinds of models."""
    found = validate_database("default", print)
    assert found.findings == ()
    assert found.tables == 14
    assert found.passes(strict=True)


def test_nothing_is_found_in_features_of_postgresql(stacks) -> None:
    """Validation accepts schemas, partitions, a view as a table and a system column."""
    found = validate_database("default", print)
    assert found.findings == ()
    assert found.tables == 13


def test_a_database_in_memory(memory_connection, install) -> None:
    """Validation uses the connection of a database in memory."""
    install("library")
    call_command("migrate", verbosity=0)
    assert findings() == ()
    memory_connection.execute("DROP TABLE library_reading")
    assert only().object == "library_reading"


def test_nothing_is_left_behind(lite, install) -> None:
    """Validation does not create a missing database file; all migrations are unapplied."""
    install("library")
    found = validate_database("default", print)
    assert {each.kind for each in found.findings} == {FindingKind.UNAPPLIED_MIGRATION}
    assert (found.tables, lite.file.exists()) == (0, False)


# Each kind is found, and repaired


@pytest.mark.parametrize("broken", BREAKS)
def test_found_and_repaired(any_library, broken) -> None:
    """Validation names a missing object, and its SQL restores the object."""
    statements, kind, name = BREAKS[broken]
    run(any_library, statements)
    finding = only()
    assert (finding.kind, finding.object) == (kind, name)
    repair(any_library)
    assert findings() == ()


@pytest.mark.parametrize("broken", POSTGRES_BREAKS)
def test_found_and_repaired_on_postgresql(library, broken) -> None:
    """Validation finds and repairs objects that only PostgreSQL can lose or leave unfinished."""
    statements, kind, name = POSTGRES_BREAKS[broken]
    run(library, statements)
    finding = only()
    assert (finding.kind, finding.object) == (kind, name)
    repair(library)
    assert findings() == ()


def test_all_at_once(library) -> None:
    """The repairs of many differences work in their order.

    Tables that refer to each other can be missing together, and a column with its unique
    constraint.
    """
    run(
        library,
        "DROP TABLE library_loan, library_reading, library_book_editors;"
        "DROP TABLE library_author, library_author_friends CASCADE;"
        "ALTER TABLE library_book DROP COLUMN shelf, DROP COLUMN pages, DROP COLUMN draft;"
        "ALTER TABLE library_book DROP CONSTRAINT book_title;"
        "DROP INDEX book_lower;"
        "ALTER TABLE library_novel ADD CHECK (genre <> '') NOT VALID",
    )
    kinds = {finding.kind for finding in findings()}
    assert kinds == {*FindingKind} - {
        FindingKind.UNAPPLIED_MIGRATION,
        FindingKind.MISSING_INDEX,
        FindingKind.INVALID_INDEX,
    }
    repair(library)
    assert findings() == ()
    foreign_keys = (
        "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"
        " AND conrelid::regclass::text ~ '^library_(loan|reading|book_editors|author)'"
    )
    assert library.value(foreign_keys) == 7


def test_a_repair_in_another_schema(stacks) -> None:
    """Validation finds and repairs objects outside the search path."""
    run(
        stacks,
        "DROP TABLE stacks.stack CASCADE;"
        "ALTER TABLE stacks.room DROP COLUMN name;"
        "ALTER TABLE stacks.room ADD CONSTRAINT named CHECK (id > 0) NOT VALID;"
        "CREATE INDEX broken ON stacks.room (id);"
        "UPDATE pg_index SET indisvalid = false"
        " WHERE indexrelid = 'stacks.broken'::regclass",
    )
    assert [finding.object for finding in findings()] == [
        "stacks.stack",
        "stacks.room.name",
        "stacks.room (stack_id)",
        "stacks.broken",
        "stacks.room.named",
    ]
    repair(stacks)
    run(stacks, "ALTER TABLE stacks.stack DROP CONSTRAINT stack_name_key")
    assert only().object == "stacks.stack (name)"
    repair(stacks)
    assert findings() == ()


def test_partitions(stacks) -> None:
    """On partitioned tables validation finds only objects that PostgreSQL can create."""
    run(
        stacks,
        "ALTER TABLE stacks_event DROP CONSTRAINT event_name;"
        "ALTER TABLE stacks_event ADD CONSTRAINT named CHECK (name <> '') NOT VALID;"
        "CREATE INDEX on_none ON ONLY stacks_event (name)",
    )
    assert [finding.object for finding in findings()] == [
        "event_name",
        "stacks_event.named",
    ]
    repair(stacks)
    assert findings() == ()


def test_a_unique_index_that_lacks_partitions(stacks) -> None:
    """An index that not every partition has is a finding without a repair."""
    run(
        stacks,
        "CREATE TABLE parted (id int) PARTITION BY LIST (id);"
        "CREATE TABLE part PARTITION OF parted FOR VALUES IN (1);"
        "CREATE UNIQUE INDEX parted_id ON ONLY parted (id)",
    )
    found = only()
    assert (found.object, found.repair) == ("parted_id", ())
    assert "not every partition has its own" in found.message


def test_an_index_that_another_role_builds(
    library, new_role, log_in_as, connect_raw, in_background
) -> None:
    """An index under construction is no finding, although the role cannot see its name."""
    role = new_role("validator")
    library.rows(f"GRANT SELECT ON django_migrations TO {role}")
    reader = connect_raw()
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM library_book")
    builder = connect_raw()
    built = in_background(
        lambda: builder.execute("CREATE INDEX CONCURRENTLY slowly ON library_book (id)")
    )
    invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
    wait_until(lambda: library.value(invalid) == 1)
    log_in_as(USER=role)
    assert findings() == ()
    reader.execute("ROLLBACK")
    built.result()


def test_constraints_that_are_never_valid(library) -> None:
    """A constraint that is NOT ENFORCED (PostgreSQL 18) is no finding."""
    run(library, "ALTER TABLE library_book ADD CHECK (pages > 0) NOT ENFORCED")
    assert findings() == ()


def test_other_tables_of_the_same_schema(library) -> None:
    """Validation finds an invalid index of any table in the search path."""
    run(
        library,
        "CREATE TABLE other (id integer); CREATE INDEX other_id ON other (id);"
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'other_id'::regclass",
    )
    assert only().object == "other_id"


def test_equivalent_indexes(library) -> None:
    """An index with another name, or on fewer columns, enforces the uniqueness."""
    run(
        library,
        "ALTER TABLE library_book DROP CONSTRAINT book_title;"
        "CREATE UNIQUE INDEX mine ON library_book (title);"
        "DROP INDEX book_published;"
        'ALTER TABLE library_book DROP CONSTRAINT "library_book_ISBN Number_key";'
        'CREATE UNIQUE INDEX other ON library_book ("ISBN Number") INCLUDE (title)',
    )
    assert findings() == ()


def test_nulls(library) -> None:
    """An index with distinct NULLs does not enforce a constraint with equal NULLs."""
    run(
        library,
        "ALTER TABLE library_book DROP CONSTRAINT book_nulls;"
        "CREATE UNIQUE INDEX mine ON library_book (shelf, title)",
    )
    assert only().object == "book_nulls"


def test_an_older_postgresql(library, monkeypatch) -> None:
    """Before PostgreSQL 15, a constraint with equal NULLs is not required."""
    run(library, "ALTER TABLE library_book DROP CONSTRAINT book_nulls")
    older = property(lambda introspection: False)
    monkeypatch.setattr(PostgresIntrospection, "_has_nulls_distinct", older)
    assert findings() == ()


# Findings that SQL cannot always repair


def test_sqlite_cannot_add_it(lite_library) -> None:
    """A column that SQLite cannot add to existing rows is a finding without a repair."""
    run(
        lite_library,
        "DROP INDEX book_lower; DROP TABLE library_novel; DROP TABLE library_loan;"
        "CREATE TABLE library_novel (genre varchar(20) UNIQUE);"
        "CREATE TABLE library_loan (book_id bigint, PRIMARY KEY (book_id));"
        "CREATE INDEX loan_book ON library_loan (book_id)",
    )
    repairs = {finding.object: finding.repair for finding in findings()}
    assert repairs.pop("book_lower")
    assert (
        repairs
        == {
            "library_novel.book_ptr_id": (),
            "library_loan.day": (),
            "library_loan (book_id)": (),  # the foreign key, for which the table is made anew
        }
    )


def test_columns_of_sqlite(lite_library) -> None:
    """SQLite can add a unique column, a column with a default and a foreign key."""
    run(
        lite_library,
        "DROP TABLE library_novel; DROP TABLE library_reading;"
        "CREATE TABLE library_novel (book_ptr_id bigint PRIMARY KEY REFERENCES library_book);"
        "CREATE TABLE library_reading (id integer PRIMARY KEY,"
        " book_id bigint REFERENCES library_book (id));"
        "ALTER TABLE library_reading ADD COLUMN author_id bigint REFERENCES library_author;"
        "CREATE INDEX reading_book ON library_reading (book_id);"
        "CREATE INDEX reading_author ON library_reading (author_id)",
    )
    assert {finding.object for finding in findings()} == {
        "library_novel.genre",
        "library_reading.at",
    }
    repair(lite_library)
    assert findings() == ()


def test_a_generated_column_of_sqlite(lite_library, monkeypatch) -> None:
    """SQLite can add a generated column unless it is stored."""
    run(lite_library, "ALTER TABLE library_book DROP COLUMN length")
    assert only().repair == ()
    monkeypatch.setattr(model("Book")._meta.get_field("length"), "db_persist", False)
    repair(lite_library)
    assert findings() == ()


def test_a_primary_key_of_sqlite(lite_library) -> None:
    """A unique index replaces a missing primary key."""
    run(
        lite_library,
        "DROP TABLE library_loan;"
        "CREATE TABLE library_loan (book_id bigint REFERENCES library_book, day date);"
        "CREATE INDEX loan_book ON library_loan (book_id)",
    )
    assert only().object == "library_loan (book_id, day)"
    repair(lite_library)
    assert findings() == ()


def test_a_view_of_sqlite(lite_library) -> None:
    """A view in place of a table needs its columns, but no uniqueness."""
    run(
        lite_library,
        "ALTER TABLE library_novel RENAME TO novels;"
        "CREATE VIEW library_novel AS SELECT * FROM novels",
    )
    assert findings() == ()


def test_rows_of_sqlite(lite_library, monkeypatch) -> None:
    """A field may map to the row id of SQLite."""
    monkeypatch.setattr(model("Novel")._meta.get_field("genre"), "column", "rowid")
    assert findings() == ()


def test_another_schema_of_sqlite(lite, install) -> None:
    """Validation skips tables of schemas, which may be attached to Django's connection."""
    install("stacks")
    lite.rows("CREATE TABLE django_migrations (id integer, app text, name text)")
    for number, name in enumerate(current_build().migrations):
        values = (number, *name.split("."))
        lite.rows("INSERT INTO django_migrations VALUES (?, ?, ?)", *values)
    tables = {finding.object for finding in findings()}
    assert "stacks_event" in tables
    assert not any(table.startswith("stacks.") for table in tables)


def test_code_that_fails(library, monkeypatch) -> None:
    """A default that raises removes the repair of its column, but no finding."""

    def fail() -> int:
        raise ValueError("no")

    run(library, "ALTER TABLE library_book DROP COLUMN pages CASCADE")
    monkeypatch.setattr(model("Book")._meta.get_field("pages"), "_get_default", fail)
    found = {finding.object: finding.repair for finding in findings()}
    assert found.pop("library_book.pages") == ()
    assert all(found.values())


# The cause of a difference


def test_no_migration_creates_it(library, monkeypatch) -> None:
    """The repair is `makemigrations` for an object that no migration creates."""
    for name in ("title", "pages"):
        monkeypatch.setattr(
            model("Book")._meta.get_field(name), "column", f"{name}_new"
        )
    monkeypatch.setattr(model("Novel")._meta, "db_table", "library_romance")
    monkeypatch.setattr(model("Reading")._meta, "unique_together", [("book", "author")])
    found = findings()
    assert {finding.object for finding in found} >= {
        "library_romance",
        "library_book.title_new",
        "library_reading (book_id, author_id)",
    }
    commands = (
        "python manage.py makemigrations library",
        "python manage.py safe_migrate",
    )
    told = {f.object: f.repair for f in found}
    assert told["library_romance"] == commands
    assert told["library_book.title_new"] == commands
    assert told["library_reading (book_id, author_id)"] == commands


def test_an_app_without_migrations(django_database, install) -> None:
    """The tables of an app without migrations are required after `migrate --run-syncdb`."""
    install("notes")
    initialize()
    assert findings() == ()
    call_command("migrate", run_syncdb=True, verbosity=0)
    assert findings() == ()
    run(
        django_database,
        "DROP TABLE notes_note; ALTER TABLE notes_label DROP CONSTRAINT notes_label_name_key",
    )
    table, unique = findings()
    assert table.repair == ("python manage.py migrate --run-syncdb",)
    assert (table.level, unique.level) == ("error", "warn")
    run(django_database, unique.repair[0])
    call_command("migrate", run_syncdb=True, verbosity=0)
    assert findings() == ()


def test_a_database_that_is_ahead(library) -> None:
    """A difference that a newer build may have caused is a warning."""
    run(library, "ALTER TABLE library_novel DROP COLUMN genre")
    MigrationRecorder(connection).record_applied("library", "0002_no_genre")
    finding = only()
    assert finding.level == "warn"
    assert finding.message == (
        "The table library_novel of library.Novel has no column genre."
        " library.0002_no_genre, unknown to this build, may have removed it."
    )
    assert finding.repair == ("python manage.py migrate library 0001_initial",)
    assert initialize().result == "ready"


def test_a_squashed_history(library) -> None:
    """An unknown migration before the known ones does not belong to a newer build."""
    run(library, "ALTER TABLE library_novel DROP COLUMN genre")
    run(
        library,
        "UPDATE django_migrations SET id = -1 WHERE app = 'sessions';"
        "INSERT INTO django_migrations (id, app, name, applied) OVERRIDING SYSTEM VALUE"
        " VALUES (-1, 'library', '0001_old', now())",
    )
    assert only().level == "error"


def test_a_router(library, settings) -> None:
    """A table that the routers keep out of the database is not required."""
    run(library, "DROP TABLE library_book_editors; DROP TABLE library_reading")
    settings.DATABASE_ROUTERS = [OnlyPeople()]
    assert findings() == ()


class OnlyPeople:
    """A router that allows only the authors of the library."""

    def allow_migrate(self, db: str, app_label: str, model_name: str = "", **hints):
        return app_label != "library" or model_name == "author"


# In a run


def test_a_run_that_fails(library, caplog) -> None:
    """An error fails the run, with the findings in the exception and in the log."""
    run(library, "ALTER TABLE library_reading DROP COLUMN at; DROP INDEX book_lower")
    with pytest.raises(ValidationFailed) as caught:
        Initializer(FORCED).run()
    error = "The table library_reading of library.Reading has no column at."
    assert str(caught.value) == (
        f"{error} How to repair it: python manage.py safe_init_validate"
    )
    assert [finding.level for finding in caught.value.findings] == ["error", "warn"]
    newest = library.newest_run()
    assert (newest["outcome"], newest["error"]) == ("failed", str(caught.value))
    missing, index = (
        record.getMessage()
        for record in caplog.records
        if record.getMessage().startswith("Validation of default: ")
    )
    assert missing.startswith(f"Validation of default: {error} Repair it:\n    ALTER")
    assert missing.splitlines()[2].startswith("    ALTER TABLE")
    assert "Repair it: CREATE UNIQUE INDEX" in index
    levels = [each.levelname for each in caplog.records]
    assert levels.count("ERROR") == 1
    repair(library)
    assert initialize().result == "ready"


def test_a_run_that_fails_on_sqlite(lite_library) -> None:
    """An error fails the run on SQLite."""
    run(lite_library, "DROP TABLE library_reading")
    with pytest.raises(ValidationFailed, match="library_reading"):
        Initializer(FORCED).run()
    assert lite_library.newest_run()["outcome"] == "failed"


def test_many_findings(library) -> None:
    """The error of a run quotes the first findings and counts the rest."""
    run(
        library,
        "DROP TABLE library_reading, library_loan, library_novel, library_book_editors",
    )
    with pytest.raises(ValidationFailed, match=r" And 1 more\. How to repair it: "):
        Initializer(FORCED).run()


def test_levels(library, settings) -> None:
    """A kind with the level "off" is skipped; a warning does not fail the run."""
    run(
        library,
        "ALTER TABLE library_reading DROP COLUMN at; DROP INDEX book_lower;"
        "ALTER TABLE library_book ADD CHECK (pages > 0) NOT VALID",
    )
    settings.SAFE_INIT = {
        "IN_TESTS": True,
        "VALIDATE": {
            "missing_column": "warn",
            "missing_unique": "off",
            "not_valid_constraint": "off",
        },
    }
    assert only().level == "warn"
    assert Initializer(FORCED).run().result == "ready"


def test_migrate_that_only_records(django_database, install, caplog) -> None:
    """`migrate --fake` succeeds as Django's does, and logs what is missing."""
    install()
    initialize()
    install("library")
    call_command("migrate", fake=True, verbosity=0)
    assert "library_reading" in caplog.text
    assert django_database.newest_run()["outcome"] == "partial"
    assert initialize().result == "ready"
    assert not validate_database("default", print).passes()


def test_unapplied_migrations(library) -> None:
    """While migrations are unapplied, the models are not compared."""
    call_command("migrate", "library", "zero", verbosity=0)
    found = validate_database("default", print)
    assert [finding.object for finding in found.findings] == ["library.0001_initial"]
    assert not found.passes()
    assert initialize().result == "ready"


# From a command line


@pytest.fixture
def validate(command_line):
    """Return a function that runs the command from a command line."""
    return partial(command_line, Command, "safe_init_validate")


def test_command(validate, library) -> None:
    """The command writes nothing, and exits with 0 if it finds nothing."""
    runs = library.runs()
    ended = validate()
    assert (ended.code, ended.stdout) == (
        0,
        "default: 14 tables are what this build's models need\n",
    )
    assert library.runs() == runs
    assert validate("--json", "--strict").json == {
        "databases": [
            {"database": "default", "valid": True, "tables": 14, "findings": []}
        ],
        "error": None,
    }


def test_command_with_findings(validate, library) -> None:
    """The command groups findings with their repairs, and exits with 1 for an error."""
    run(library, "DROP INDEX book_lower; ALTER TABLE library_reading DROP COLUMN at")
    ended = validate()
    assert ended.code == 1
    lines = ended.stdout.splitlines()
    repair_of_column = lines.pop(4)
    assert repair_of_column.startswith(
        '    ALTER TABLE "library_reading" ADD COLUMN "at"'
    )
    assert lines == [
        "default: 1 error, 1 warning",
        "",
        "missing_column (error)",
        "  The table library_reading of library.Reading has no column at.",
        '    ALTER TABLE "library_reading" ALTER COLUMN "at" DROP DEFAULT;',
        "",
        "missing_unique (warn)",
        "  The table library_book of library.Book lacks the unique constraint book_lower.",
        '    CREATE UNIQUE INDEX CONCURRENTLY "book_lower" ON "library_book"'
        ' ((LOWER("title")), "author_id");',
    ]
    found = validate("--json")
    assert found.code == 1
    [database] = found.json["databases"]
    assert (database["database"], database["valid"]) == ("default", False)
    column, unique = database["findings"]
    assert column["kind"] == "missing_column"
    assert column["model"] == "library.Reading"
    assert unique["repair"] == [
        'CREATE UNIQUE INDEX CONCURRENTLY "book_lower" ON "library_book"'
        ' ((LOWER("title")), "author_id");'
    ]


def test_command_with_many_unapplied_migrations(
    validate, django_database, small_shop
) -> None:
    """Of many unapplied migrations ten are shown with one repair; --verbosity 2 shows all."""
    for number in range(3, 30):
        small_shop.write(f"00{number:02}_more")
    lines = validate().stdout.splitlines()
    assert lines[0] == "default: 29 errors, 0 warnings"
    assert lines[3] == "  The migration shop.0001_initial is not applied."
    assert lines[-2:] == [
        "    python manage.py safe_migrate",
        "  and 19 more (--verbosity 2 shows all)",
    ]
    assert len(lines) == 3 + 10 + 2
    assert len(validate("--verbosity", "2").stdout.splitlines()) == 3 + 29 + 1
    [database] = validate("--json").json["databases"]
    assert len(database["findings"]) == 29


def test_command_with_warnings(validate, library) -> None:
    """A warning is exit code 0, unless --strict."""
    run(library, "DROP INDEX book_lower; DROP INDEX book_published")
    ended = validate()
    assert (ended.code, validate("--strict").code) == (0, 1)
    assert ended.stdout.startswith(
        "default: 0 errors, 2 warnings\n"
        "\n"
        "missing_unique (warn)\n"
        "  The table library_book of library.Book lacks the unique constraint "
    )


def test_command_with_unapplied_migrations(
    validate, django_database, small_shop
) -> None:
    """Unapplied migrations are exit code 1, with the command that applies them."""
    ended = validate()
    assert ended.code == 1
    assert ended.stdout == (
        "default: 2 errors, 0 warnings\n"
        "\n"
        "unapplied_migration (error)\n"
        "  The migration shop.0001_initial is not applied.\n"
        "  The migration shop.0002_sale is not applied.\n"
        "    python manage.py safe_migrate\n"
    )
    assert not django_database.has_table("django_safe_init_run")


def test_command_without_anything(validate, django_database, shop) -> None:
    """An empty database is valid for a project without migrations."""
    assert validate().stdout.startswith("default: 0 tables are")


def test_usage(validate, library) -> None:
    """An unknown alias is exit code 2, also with --json."""
    assert validate("--database", "nowhere").code == 2
    ended = validate("--database", "default", "--database", "nowhere", "--json")
    assert ended.code == 2
    assert [each["database"] for each in ended.json["databases"]] == ["default"]
    assert "nowhere" in ended.json["error"]


def test_wrong_settings(validate, settings) -> None:
    """An invalid setting is exit code 2."""
    settings.SAFE_INIT = {"VALIDATE": {"tables": "error"}}
    assert validate().code == 2


def test_unreachable(validate, django_database, log_in_as) -> None:
    """A database server that does not answer is exit code 4."""
    log_in_as(HOST="127.0.0.1", PORT="1")
    assert validate("--json").code == 4


def test_locked_tables(validate, library, connect_raw) -> None:
    """A lock on the table of migrations is exit code 3."""
    raw = connect_raw()
    raw.execute("BEGIN; LOCK django_migrations")
    ended = validate()
    assert ended.code == 3
    assert "Try again when it is done." in ended.stderr


def test_without_rights(validate, library, new_role, log_in_as) -> None:
    """A role that may not read the migrations gets the GRANT statement; exit code 2."""
    log_in_as(USER=new_role("validator"))
    ended = validate()
    assert ended.code == 2
    assert "GRANT SELECT ON public.django_migrations TO validator;" in ended.stderr


def test_a_role_that_may_only_read(validate, library, new_role, log_in_as) -> None:
    """A role that may only read the migrations can validate and gets the repairs."""
    role = new_role("validator")
    library.rows(f"GRANT SELECT ON django_migrations TO {role}")
    run(library, "DROP TABLE library_reading")
    log_in_as(USER=role)
    ended = validate()
    assert ended.code == 1
    assert 'CREATE TABLE "library_reading"' in ended.stdout


def test_a_lost_connection(validate, library, monkeypatch) -> None:
    """A connection that ends during validation is exit code 4."""

    def lose(introspection: PostgresIntrospection) -> list[str]:
        introspection._query("SELECT pg_terminate_backend(pg_backend_pid())", None)
        return []

    monkeypatch.setattr(PostgresIntrospection, "recorded_migrations", lose)
    ended = validate()
    assert ended.code == 4
    assert "The connection to 'default' ended" in ended.stderr


def test_interrupted(validate, library, monkeypatch) -> None:
    """A signal ends the command with 128 + n."""

    def interrupt(introspection: PostgresIntrospection) -> list[str]:
        os.kill(os.getpid(), signal.SIGTERM)
        return []

    monkeypatch.setattr(PostgresIntrospection, "recorded_migrations", interrupt)
    assert validate().code == 143


def test_several_databases(validate, library, make_database, monkeypatch) -> None:
    """The command validates several databases, and its commands name their aliases."""
    other = make_database()
    monkeypatch.setitem(connections.settings, "other", other.settings())
    monkeypatch.setitem(
        connections.settings,
        "other",
        {**connections.settings["default"], "NAME": other.name},
    )
    ended = validate("--database", "other", "--database", "default")
    assert ended.code == 1
    assert "python manage.py safe_migrate --database other" in ended.stdout
    assert "default: 14 tables" in ended.stdout
    connections["other"].close()
