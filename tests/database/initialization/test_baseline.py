"""A run fails only for what it has caused; a finding that was there before is a warning."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.apps.registry import Apps
from django.core.management import CommandError, call_command
from django.core.management.commands.migrate import Command as DjangoMigrate
from django.db import models

from django_safe_init import ValidationFailed, get_status, initialize, validation
from django_safe_init.core.records import RUN_TABLE
from django_safe_init.core.states import State
from django_safe_init.management.commands.safe_init_validate import Command as Validate
from django_safe_init.management.commands.safe_migrate import Command as SafeMigrate
from django_safe_init.validation import baseline
from tests.support import Records

DROP = "ALTER TABLE library_reading DROP COLUMN at"
MESSAGE = "The table library_reading of library.Reading has no column at."
_TEMPLATE = """\
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("library", "{before}")]
    operations = [{operation}]
"""


class Library:
    """The migrated app `library`, whose next migrations a test writes."""

    def __init__(self, database: Records, folder: Path, settings: Any) -> None:
        self.database = database
        self.settings = settings
        self.folder = folder
        self.newest = "0001_initial"
        (folder / "__init__.py").write_text("")
        (folder / "0001_initial.py").write_text(
            "from importlib import import_module\n\n"
            "Migration = import_module(\n"
            "    'tests.database.apps.library.migrations.0001_initial'\n"
            ").Migration\n"
        )

    def write(self, name: str, operation: str = "", *, after: str = "") -> None:
        """Write the migration of the next release, which may follow one of another app."""
        text = _TEMPLATE.format(before=self.newest, operation=operation)
        if after:
            text += f"    dependencies += [('{after}', '0001_initial')]\n"
        (self.folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        self.newest = name

    def run_sql(self, name: str, statement: str) -> None:
        self.write(name, f"migrations.RunSQL({statement!r}, '')")

    def use(self, **safe_init: Any) -> None:
        self.settings.SAFE_INIT = {"IN_TESTS": True, **safe_init}

    def outcomes(self) -> list[str]:
        return [run["outcome"] for run in self.database.runs()]


@pytest.fixture(params=["django_database", "lite"])
def library(request, tmp_path, settings, monkeypatch):
    """The app on each engine; nothing is migrated."""
    database = request.getfixturevalue(request.param)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = tmp_path / "library_migrations"
    folder.mkdir()
    settings.INSTALLED_APPS = [
        "django_safe_init",
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "tests.database.apps.library",
    ]
    settings.MIGRATION_MODULES = {"library": folder.name}
    yield Library(database, folder, settings)
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


@pytest.fixture
def old(library):
    """The library in a database that plain Django has migrated, with a column dropped by hand."""
    call_command(DjangoMigrate(), verbosity=0)
    library.database.rows(DROP)
    return library


@pytest.fixture
def check(command_line):
    """Return a function that runs `safe_migrate` with options, and returns its exit code."""
    run = partial(command_line, SafeMigrate, "safe_migrate")
    return lambda *options: run(*options).code


@pytest.fixture
def validate(command_line):
    """Return a function that runs `safe_init_validate`, and returns its exit code."""
    run = partial(command_line, Validate, "safe_init_validate")
    return lambda: run().code


def assert_failed(library: Library, check) -> None:
    """Assert that every answer is the same: this build is not ready."""
    with pytest.raises(ValidationFailed, match=MESSAGE):
        initialize()
    with pytest.raises(CommandError, match=MESSAGE):
        call_command("migrate", verbosity=0)
    assert (check(), check("--check")) == (1, 1)
    assert get_status().state is State.ERROR
    assert set(library.outcomes()[-3:]) == {"failed"}


def test_drift_from_before(old, check, validate, caplog) -> None:
    """The first run of an old database with drift is ready, and warns with the repair."""
    assert check("--check") == 0
    assert initialize().result == "ready"
    [told] = [
        each for each in caplog.records if "Validation of default" in each.getMessage()
    ]
    assert told.levelname == "WARNING"
    assert f"{MESSAGE} It was so before this run. Repair it:" in told.getMessage()
    assert (check("--check"), check()) == (0, 0)
    assert get_status().ready
    assert validate() == 1
    call_command("migrate", verbosity=0)
    old.write("0002_next")
    assert initialize().applied == ("library.0002_next",)
    assert set(old.outcomes()) == {"ready"}


def test_migrate_first(old, check) -> None:
    """`migrate` judges like `safe_migrate`."""
    call_command("migrate", verbosity=0)
    assert old.outcomes() == ["ready"]
    assert (check("--check"), check()) == (0, 0)
    assert len(old.outcomes()) == 1


def test_drift_between_two_releases(library) -> None:
    """A column that was dropped by hand after a run does not fail the next run."""
    initialize()
    library.database.rows(DROP)
    library.write("0002_next")
    assert initialize().result == "ready"
    call_command("migrate", verbosity=0)
    assert library.outcomes() == ["ready"] * 3


def test_drift_of_a_table(library) -> None:
    """The table of a many-to-many field counts like any other."""
    initialize()
    library.database.rows("DROP TABLE library_book_editors")
    library.write("0002_next")
    assert initialize().result == "ready"


def test_a_migration_that_drops_it(library, check) -> None:
    """A column that a run's own migration has dropped fails this run, and each one after it."""
    initialize()
    library.run_sql("0002_drop", DROP)
    assert_failed(library, check)
    library.write("0003_next")  # another build
    assert_failed(library, check)


def test_migrate_drops_it(library, check) -> None:
    """`migrate` fails like `safe_migrate`, and leaves no failure behind after a repair."""
    initialize()
    library.run_sql("0002_drop", DROP)
    with pytest.raises(CommandError, match=MESSAGE):
        call_command("migrate", verbosity=0)
    assert_failed(library, check)
    library.database.rows("ALTER TABLE library_reading ADD COLUMN at varchar(20)")
    assert (initialize().result, check("--check")) == ("ready", 0)


def test_a_target_of_migrate(library) -> None:
    """A part of the migrations does not count as a finished run: its work is judged later."""
    initialize()
    library.run_sql("0002_drop", DROP)
    library.write("0003_next")
    call_command("migrate", "library", "0002", verbosity=0)
    with pytest.raises(ValidationFailed, match=MESSAGE):
        initialize()


def test_the_first_run_drops_it(library, check) -> None:
    """On an empty database, all that is missing at the end is the run's failure."""
    library.run_sql("0002_drop", DROP)
    assert_failed(library, check)


def test_drift_beside_a_migration_that_fails(old) -> None:
    """The baseline of a failed run is inherited, so the drift stays a warning."""
    old.run_sql("0002_broken", "SELECT 1 FROM nowhere")
    with pytest.raises(Exception, match="nowhere"):
        initialize()
    (old.folder / "0002_broken.py").unlink()
    old.newest = "0001_initial"
    old.write("0002_mended")
    assert initialize().applied == ("library.0002_mended",)
    assert old.outcomes() == ["failed", "ready"]


def test_a_column_that_a_pending_migration_should_add(library, monkeypatch) -> None:
    """The first run fails if its migration does not create what it says."""
    call_command(DjangoMigrate(), verbosity=0)
    add_field(monkeypatch)
    add = "migrations.AddField('reading', 'note', models.TextField(null=True))"
    library.write(
        "0002_note",
        f"migrations.SeparateDatabaseAndState(state_operations=[{add}])",
    )
    for _ in range(2):
        with pytest.raises(ValidationFailed, match=r"has no column note\."):
            initialize()


def test_a_table_that_a_pending_migration_should_rename(library) -> None:
    """The first run fails if its migration does not rename what it says."""
    library.write(
        "0002_move", "migrations.AlterModelTable('reading', 'library_old_reading')"
    )
    call_command(DjangoMigrate(), verbosity=0)
    back = "migrations.AlterModelTable('reading', None)"
    library.write(
        "0003_back",
        f"migrations.SeparateDatabaseAndState(state_operations=[{back}])",
    )
    for _ in range(2):
        with pytest.raises(ValidationFailed, match="library_reading"):
            initialize()


def test_an_explicit_level(old) -> None:
    """The explicit level "error" ignores the baseline, which stays stored."""
    old.use(VALIDATE={"missing_column": "error"})
    with pytest.raises(ValidationFailed, match=MESSAGE):
        initialize()
    old.use(VALIDATE={"missing_table": "error"})
    assert initialize().result == "ready"


def test_force(old, check) -> None:
    """--force ignores the baseline, which stays stored."""
    assert check("--force") == 1
    assert get_status().state is State.ERROR
    assert check() == 0
    assert old.outcomes() == ["failed", "ready"]


def test_a_model_without_its_migration(library, monkeypatch) -> None:
    """A field whose migration was forgotten fails the release that adds it."""
    initialize()
    add_field(monkeypatch)
    library.write("0002_next")
    with pytest.raises(ValidationFailed, match=r"has no column note\."):
        initialize()


def test_a_model_without_its_migration_before_the_first_run(
    library, monkeypatch
) -> None:
    """In an application that lives without the column, the first run and the next ones warn."""
    call_command(DjangoMigrate(), verbosity=0)
    add_field(monkeypatch)
    assert initialize().result == "ready"
    library.write("0002_next")
    assert initialize().result == "ready"


def add_field(monkeypatch) -> None:
    reading = apps.get_model("library", "Reading")
    field = models.TextField(null=True)
    field.set_attributes_from_name("note")
    field.model = reading
    fields = [*reading._meta.local_fields, field]
    monkeypatch.setattr(reading._meta, "local_fields", fields)


def test_an_app_without_migrations(library) -> None:
    """The table of an app without migrations cannot be a migration's fault."""
    library.settings.INSTALLED_APPS = [
        *library.settings.INSTALLED_APPS,
        "tests.database.apps.notes",
    ]
    call_command("migrate", run_syncdb=True, verbosity=0)
    library.database.rows("DROP TABLE notes_note")
    library.write("0002_next")
    assert initialize().result == "ready"


@pytest.mark.parametrize("findings", [None, "{", "7", '{"known": null}'])
def test_a_run_without_readable_findings(old, findings) -> None:
    """A row that an older version or another program has written does not matter."""
    initialize()
    old.database.rows(
        f"UPDATE {RUN_TABLE} SET findings = "
        + ("NULL" if findings is None else f"'{findings}'")
    )
    old.write("0002_next")
    assert initialize().result == "ready"


def test_a_failure_of_an_older_version(old) -> None:
    """A database that an older version has refused is ready with this one."""
    old.use(VALIDATE={"missing_column": "error"})
    with pytest.raises(ValidationFailed):
        initialize()
    old.database.rows(f"UPDATE {RUN_TABLE} SET findings = NULL")
    old.use()
    assert initialize().result == "ready"


def test_a_history_of_one_run(library, check) -> None:
    """The baseline is read before the run that holds it is deleted."""
    library.use(HISTORY=1)
    initialize()
    library.run_sql("0002_drop", DROP)
    assert_failed_once(library)
    assert_failed_once(library)


def assert_failed_once(library: Library) -> None:
    with pytest.raises(ValidationFailed, match=MESSAGE):
        initialize()
    assert library.database.newest_run()["outcome"] == "failed"


NOTE = "migrations.AddField('reading', 'note', models.TextField(null=True))"


def assert_ready(check) -> None:
    """Assert that every answer is the same: this build is ready."""
    assert check("--check") == 0
    assert initialize().result == "ready"
    call_command("migrate", verbosity=0)
    assert (check("--check"), check()) == (0, 0)
    assert get_status().ready


@pytest.mark.parametrize("target", [[], ["library"], ["library", "0001"]])
def test_drift_after_a_part(library, check, target) -> None:
    """A column that is dropped by hand after `migrate` with a target fails no run."""
    initialize()
    call_command("migrate", *target, verbosity=0)
    library.database.rows(DROP)
    library.write("0002_next")
    assert initialize().applied == ("library.0002_next",)
    assert_ready(check)


def test_drift_before_a_part(old, check) -> None:
    """`migrate` with a target takes a baseline like any other run."""
    old.write("0002_next")
    call_command("migrate", "library", verbosity=0)
    assert old.outcomes() == ["partial"]
    assert_ready(check)


def test_a_target_that_drops_it(library, check) -> None:
    """A target that completes the migrations is judged like a run without a target."""
    initialize()
    library.run_sql("0002_drop", DROP)
    with pytest.raises(CommandError, match=MESSAGE):
        call_command("migrate", "library", verbosity=0)
    assert_failed(library, check)


def test_a_part_after_damage(library) -> None:
    """Another part, or drift after it, makes no warning of what a part has caused."""
    initialize()
    library.run_sql("0002_drop", DROP)
    library.write("0003_next")
    call_command("migrate", "library", "0002", verbosity=0)
    library.database.rows("DROP TABLE library_book_editors")
    call_command("migrate", "contenttypes", verbosity=0)
    with pytest.raises(ValidationFailed) as caught:
        initialize()
    levels = {each.object: each.level for each in caught.value.findings}
    assert (levels["library_reading.at"], levels["library_book_editors"]) == (
        "error",
        "warn",
    )


def test_a_part_that_fails(library) -> None:
    """A failed part hands its baseline on, as it may have applied migrations."""
    initialize()
    library.run_sql("0002_drop", DROP)
    library.run_sql("0003_broken", "SELECT 1 FROM nowhere")
    with pytest.raises(Exception, match="nowhere"):
        call_command("migrate", "library", verbosity=0)
    assert library.outcomes()[-1] == "partial"
    (library.folder / "0003_broken.py").unlink()
    library.newest = "0002_drop"
    library.write("0003_mended")
    with pytest.raises(ValidationFailed, match=MESSAGE):
        initialize()


@pytest.mark.parametrize("target", [[], ["library"], ["library", "0002"]])
def test_a_faked_migration(library, check, monkeypatch, target, validate) -> None:
    """A run that applies nothing causes nothing, and neither does the next one."""
    initialize()
    add_field(monkeypatch)
    library.write("0002_note", NOTE)
    call_command("migrate", *target, fake=True, verbosity=0)
    assert library.outcomes() == ["ready", "partial"]
    assert_ready(check)
    assert validate() == 1


def test_a_faked_migration_after_a_failure(library, check, monkeypatch) -> None:
    """`migrate --fake` accepts what it fakes, and no damage of the run before."""
    initialize()
    add_field(monkeypatch)
    library.run_sql("0002_drop", DROP)
    library.run_sql("0003_broken", "SELECT 1 FROM nowhere")
    with pytest.raises(Exception, match="nowhere"):
        initialize()
    (library.folder / "0003_broken.py").unlink()
    library.newest = "0002_drop"
    library.write("0003_note", NOTE)
    with pytest.raises(CommandError, match=MESSAGE):
        call_command("migrate", fake=True, verbosity=0)
    assert (check("--check"), library.outcomes()[-1]) == (1, "failed")
    library.database.rows("ALTER TABLE library_reading ADD COLUMN at varchar(20)")
    assert (initialize().result, check("--check")) == ("ready", 0)


def test_a_faked_part_after_damage(library, monkeypatch) -> None:
    """`migrate --fake` of a part hands on what an earlier part has caused."""
    initialize()
    add_field(monkeypatch)
    library.run_sql("0002_drop", DROP)
    library.write("0003_note", NOTE)
    library.write("0004_next")
    call_command("migrate", "library", "0002", verbosity=0)
    call_command("migrate", "library", "0003", fake=True, verbosity=0)
    with pytest.raises(ValidationFailed, match=MESSAGE) as caught:
        initialize()
    levels = {each.object: each.level for each in caught.value.findings}
    assert levels["library_reading.at"] == "error"
    assert levels["library_reading.note"] == "warn"


def state_only(*operations: str) -> str:
    return f"migrations.SeparateDatabaseAndState(state_operations=[{', '.join(operations)}])"


def write_notes(library: Library, monkeypatch, operations: list[str]) -> None:
    """Write the first migration of the app `notes`, which moves a model to it."""
    folder = library.folder.parent / "notes_migrations"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    operation = ", ".join(operations)
    text = _TEMPLATE.format(before=library.newest, operation=operation)
    (folder / "0001_initial.py").write_text(f"{text}    initial = True\n")
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        monkeypatch.delitem(sys.modules, name)
    settings = library.settings
    settings.MIGRATION_MODULES = {**settings.MIGRATION_MODULES, "notes": folder.name}
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "tests.database.apps.notes"]


def use_models(monkeypatch, *changed: type[models.Model]) -> None:
    """Let validation see these models in place of the library's model Reading."""
    found = [
        each
        for each in apps.get_models(include_auto_created=True)
        if each._meta.label != "library.Reading" and each._meta.app_label != "notes"
    ]
    known = SimpleNamespace(get_models=lambda **options: [*found, *changed])
    for module in (validation, baseline):
        monkeypatch.setattr(module, "apps", known)


def reading(name: str = "Reading", label: str = "library", **options: Any) -> Any:
    """Return the model Reading of the next release."""
    at = options.pop("at", None) or models.DateTimeField()
    field = options.pop("field", "at")
    meta = type("Meta", (), {"app_label": label, "apps": Apps(), **options})
    return type(
        name, (models.Model,), {"Meta": meta, "__module__": __name__, field: at}
    )


MOVED = (
    "migrations.CreateModel('Reading', [('id', models.BigAutoField(primary_key=True)),"
    " ('at', models.DateTimeField())], options={'db_table': 'library_reading'})"
)
#: The many-to-many field without a table whose model would be missing.
UNUSED = "migrations.RemoveField('Book', 'readers')"
RENAMES = {
    "table": ("migrations.AlterModelTable('Reading', 'goods')", {"db_table": "goods"}),
    "model": ("migrations.RenameModel('Reading', 'Perusal')", {"name": "Perusal"}),
    "model, and then its table": (
        "migrations.RenameModel('Reading', 'Perusal'),"
        "migrations.AlterModelTable('Perusal', 'goods')",
        {"name": "Perusal", "db_table": "goods"},
    ),
    "model in the state": (
        state_only(
            "migrations.RenameModel('Reading', 'Perusal')",
            "migrations.AlterModelTable('Perusal', 'library_reading')",
        ),
        {"name": "Perusal", "db_table": "library_reading"},
    ),
    "field": (
        state_only("migrations.RenameField('Reading', 'at', 'moment')"),
        {"field": "moment"},
    ),
    "column": (
        state_only(
            "migrations.AlterField('Reading', 'at',"
            " models.DateTimeField(db_column='moment'))"
        ),
        {"at": models.DateTimeField(db_column="moment")},
    ),
    "field, with SQL": (
        "migrations.RunSQL('SELECT 1', '', state_operations="
        "[migrations.RenameField('Reading', 'at', 'moment')])",
        {"field": "moment"},
    ),
    "table in SQL": (
        "migrations.SeparateDatabaseAndState("
        "[migrations.RunSQL('ALTER TABLE library_reading RENAME TO goods')],"
        "[migrations.AlterModelTable('Reading', 'goods')])",
        {"db_table": "goods"},
    ),
}


@pytest.mark.parametrize("rename", RENAMES)
def test_a_rename(old, check, monkeypatch, rename) -> None:
    """Drift keeps being a warning under the new names of its table and column."""
    initialize()
    operations, options = RENAMES[rename]
    use_models(monkeypatch, reading(**options))
    old.write("0002_rename", operations)
    assert (initialize().result, check("--check")) == ("ready", 0)


def test_a_rename_that_drops_another_column(old, check, monkeypatch) -> None:
    """A column that the run drops under the table's new name fails it."""
    initialize()
    model = reading(db_table="goods")
    model.add_to_class("author", models.BigIntegerField(db_column="author_id"))
    use_models(monkeypatch, model)
    rename, _ = RENAMES["table"]
    old.write("0002_rename", rename)
    old.run_sql("0003_drop", "ALTER TABLE goods RENAME author_id TO other")
    for _ in range(2):
        with pytest.raises(
            ValidationFailed, match=r"goods .* has no column author_id"
        ) as caught:
            initialize()
        levels = {each.object: each.level for each in caught.value.findings}
        assert levels["goods.at"] == "warn"


def test_two_renames_around_a_failure(old, monkeypatch) -> None:
    """A baseline is inherited under the names that the failed build gave, and under newer ones."""
    initialize()
    use_models(monkeypatch, reading(db_table="goods"))
    old.write("0002_rename", "migrations.AlterModelTable('Reading', 'goods')")
    old.run_sql("0003_broken", "SELECT 1 FROM nowhere")
    with pytest.raises(Exception, match="nowhere"):
        initialize()
    (old.folder / "0003_broken.py").unlink()
    old.newest = "0002_rename"
    old.write("0003_rename", "migrations.AlterModelTable('Reading', 'wares')")
    use_models(monkeypatch, reading(db_table="wares"))
    assert initialize().result == "ready"


def test_a_removed_column_that_comes_back(old, monkeypatch) -> None:
    """A table that a pending migration creates anew is no drift, whatever its name was before."""
    initialize()
    use_models(monkeypatch, reading())
    old.write("0002_delete", f"{UNUSED}, migrations.DeleteModel('Reading')")
    old.write("0003_create", MOVED)
    old.run_sql("0004_drop", DROP)
    with pytest.raises(ValidationFailed, match="no column at"):
        initialize()


MOVES = {
    "table": (
        [],
        [MOVED],
        [state_only(f"{UNUSED}, migrations.DeleteModel('Reading')")],
        "library_reading",
    ),
    "table, and then its name": (
        [],
        [MOVED, "migrations.AlterModelTable('Reading', 'goods')"],
        [state_only(f"{UNUSED}, migrations.DeleteModel('Reading')")],
        "goods",
    ),
    "table under another name": (
        [
            "migrations.SeparateDatabaseAndState("
            "[migrations.AlterModelTable('Reading', 'notes_reading')],"
            f"[{UNUSED}, migrations.DeleteModel('Reading')])"
        ],
        [MOVED.replace("library_reading", "notes_reading")],
        [],
        "notes_reading",
    ),
    "table under another name, whose model stays for a while": (
        [
            "migrations.SeparateDatabaseAndState("
            "[migrations.AlterModelTable('Reading', 'notes_reading')])"
        ],
        [MOVED.replace("library_reading", "notes_reading")],
        [state_only(f"{UNUSED}, migrations.DeleteModel('Reading')")],
        "notes_reading",
    ),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_move_to_another_app(old, check, monkeypatch, move) -> None:
    """Drift keeps being a warning when a model moves to another app with its table."""
    initialize()
    first, notes, last, table = MOVES[move]
    if first:
        old.write("0002_first", ",".join(first))
    write_notes(old, monkeypatch, [state_only(notes[0]), *notes[1:]])
    if last:
        old.write("0003_last", ",".join(last), after="notes")
    use_models(monkeypatch, reading(label="notes", db_table=table))
    assert (initialize().result, check("--check")) == ("ready", 0)


LEGACY = MOVED.replace("library_reading", "legacy")


@pytest.mark.parametrize("fake_initial", [False, True])
def test_an_adopted_table(old, check, monkeypatch, fake_initial) -> None:
    """A table that exists before its model lacks a column before the run."""
    old.database.rows("CREATE TABLE legacy (id integer PRIMARY KEY)")
    write_notes(old, monkeypatch, [LEGACY if fake_initial else state_only(LEGACY)])
    use_models(monkeypatch, reading(label="notes", db_table="legacy"))
    call_command("migrate", fake_initial=fake_initial, verbosity=0)
    assert (initialize().result, check("--check")) == ("ready", 0)
    assert old.outcomes() == ["ready"]
