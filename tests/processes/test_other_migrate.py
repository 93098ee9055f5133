"""Other apps' `migrate` commands, which this package's command extends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes.harness import Fleet, Replica
from tests.support import Database

NO_CHECKS = """
from django.core.management.commands.migrate import Command as Migrate

class Command(Migrate):
    requires_system_checks = []
    def add_arguments(self, parser):
        super().add_arguments(parser)
        skip = parser._option_string_actions.pop("--skip-checks", None)
        if skip is not None:
            parser._remove_action(skip)
    def handle(self, *args, **options):
        assert options.keys() <= {"skip_checks"} | KNOWN, options
        super().handle(*args, **{**options, "skip_checks": True})

KNOWN = set(vars(Command().create_parser("manage.py", "migrate").parse_args([])))
KNOWN |= {"stdout", "stderr"}
"""
#: Drops and renames options, and works without Django's command.
OWN_OPTIONS = """
from django.core.management import BaseCommand
from django.core.management.commands.migrate import Command as Migrate
from django.db import DEFAULT_DB_ALIAS

class Command(Migrate):
    def add_arguments(self, parser):
        parser.add_argument("--level", type=int, default=1)
    def handle(self, *args, **options):
        defaults = vars(Migrate().create_parser("manage.py", "migrate").parse_args([]))
        return Migrate.handle(self, *args, **{**defaults, **options, "skip_checks": True})
"""
FIXED_KEYWORDS = """
from django.core.management.commands.migrate import Command as Migrate

class Command(Migrate):
    def handle(
        self, *, settings, pythonpath, traceback, no_color, force_color, verbosity, app_label,
        migration_name, interactive, database, fake, fake_initial, plan, run_syncdb,
        check_unapplied, prune, skip_checks, stdout=None, stderr=None,
    ):
        options = {key: value for key, value in locals().items()
                   if key not in ("self", "__class__")}
        super().handle(**options)
        return "the output of another app"
"""
#: Adds an option in `execute`, and sets the options that it has removed.
ADDED_IN_EXECUTE = """
from django.core.management.commands.migrate import Command as Migrate

REMOVED = {"verbosity": 1, "no_color": False, "force_color": False, "database": "default"}

class Command(Migrate):
    def add_arguments(self, parser):
        super().add_arguments(parser)
        for action in [each for each in parser._actions if each.dest in REMOVED]:
            parser._handle_conflict_resolve(
                None, [(name, action) for name in list(action.option_strings)])
    def execute(self, *args, **options):
        for name, value in {**REMOVED, "tenants": ["a", "b"]}.items():
            options.setdefault(name, value)
        return super().execute(*args, **options)
    def handle(self, *args, **options):
        assert options["tenants"] == ["a", "b"] and REMOVED.keys() <= options.keys()
        return super().handle(*args, **options)
"""
#: Knows neither `--database` nor `--skip-checks`, and takes no option that it does not know.
NO_OTHER_KEYWORDS = """
from django.core.management import BaseCommand
from django.core.management.commands.migrate import Command as Migrate

class Command(Migrate):
    requires_system_checks = []
    def add_arguments(self, parser):
        pass
    def handle(self, *, settings, pythonpath, traceback, no_color, force_color, verbosity,
               stdout=None, stderr=None):
        defaults = vars(Migrate().create_parser("manage.py", "migrate").parse_args([]))
        Migrate.handle(self, **{**defaults, "verbosity": verbosity})
"""
KINDS = {
    "no checks": NO_CHECKS,
    "own options": OWN_OPTIONS,
    "fixed keywords": FIXED_KEYWORDS,
    "added in execute": ADDED_IN_EXECUTE,
    "no other keywords": NO_OTHER_KEYWORDS,
}


@pytest.fixture
def install(fleet: Fleet, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that installs an app with this `migrate` after this package."""

    def write(source: str) -> None:
        folder = tmp_path / "modules/other/management/commands"
        folder.mkdir(parents=True)
        for package in (folder, folder.parent, folder.parent.parent):
            (package / "__init__.py").touch()
        (folder / "migrate.py").write_text(source)
        path = [str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")]
        fleet.use(
            apps=("django_safe_init", "other"),
            env={"PYTHONPATH": os.pathsep.join(path)},
        )

    return write


def refused(replica: Replica, text: str) -> None:
    """Assert exit code 2 and one line with the text."""
    assert replica.wait() == 2, replica
    assert text in replica.stderr, replica
    assert len(replica.stderr.splitlines()) == 1, replica


@pytest.mark.parametrize(
    "kind", [pytest.param("no checks", marks=pytest.mark.smoke), *list(KINDS)[1:]]
)
def test_it_works(
    fleet: Fleet, database: Database, install: Callable[[str], None], kind: str
) -> None:
    """`safe_migrate` and `migrate` work, and the run is recorded."""
    install(KINDS[kind])
    first = fleet.run("safe_migrate", "--json")
    assert first.wait() == 0, first
    assert "shop.0005_data" in first.json["applied"]
    second = fleet.run("migrate")
    assert second.wait() == 0, second
    assert ("another app" in second.stdout) is (kind == "fixed keywords")
    assert len(database.applied_once()) == 5
    assert [run["outcome"] for run in database.runs()] == ["ready", "ready"]
    check = fleet.run("safe_migrate", "--check")
    assert check.wait() == 0, check


def test_a_missing_option(fleet: Fleet, install: Callable[[str], None]) -> None:
    """A task that needs an option which the command lacks is refused, and applies nothing."""
    install(OWN_OPTIONS)
    replica = fleet.run("safe_migrate", "--plan")
    refused(replica, "it has no option 'plan'")
    assert not fleet.database.has_table("django_migrations")


def test_quorum(fleet: Fleet, database: Database) -> None:
    """The quorum of django-syzygy is refused under the lock; its other options work."""
    fleet.use(apps=("django_safe_init", "syzygy"))
    refused(fleet.run("migrate", "--quorum=2"), "No quorum of 2 for database 'default'")
    assert not database.has_table("django_migrations")
    first = fleet.run("migrate", "--pre-deploy")
    assert first.wait() == 0, first
    assert fleet.run("migrate", "--quorum=1").wait() == 0
    assert len(database.applied_once()) == 5
