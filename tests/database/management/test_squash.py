"""A release adds a squashed migration: every answer agrees with Django's loader."""

from __future__ import annotations

import json
import sys
from functools import partial

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpResponse
from django.test import RequestFactory

from django_safe_init import ValidationFailed, get_status, initialize
from django_safe_init.contrib.prometheus import sample
from django_safe_init.core.build import current_build
from django_safe_init.management.commands.safe_init_status import Command as Status
from django_safe_init.management.commands.safe_init_validate import Command as Validate
from django_safe_init.management.commands.safe_migrate import Command as SafeMigrate
from django_safe_init.middleware import InitializationMiddleware
from django_safe_init.serving.background.readiness import readiness
from tests.database.conftest import INITIAL, SALE

SQUASH = "0001_squashed_0002_sale"
PARTS = ("0001_initial", "0002_sale")


@pytest.fixture(params=["django_database", "lite"])
def records(request, shop):
    """The database of each engine, with the app's two migrations applied."""
    made = request.getfixturevalue(request.param)
    shop.write("0001_initial", INITIAL)
    shop.write("0002_sale", SALE)
    initialize()
    return made


@pytest.fixture
def run(command_line):
    """Return a function that runs one of this package's commands."""
    names = {
        SafeMigrate: "safe_migrate",
        Status: "safe_init_status",
        Validate: "safe_init_validate",
    }
    return lambda command, *options: partial(
        command_line, command, names[command], *options
    )()


def squash(shop, *, keep_files: bool) -> None:
    """Write the release with the squash of both migrations."""
    if not keep_files:
        for name in PARTS[::-1]:
            shop.remove(name)
    shop.names = []
    shop.write(SQUASH, INITIAL, SALE)
    file = shop.folder / f"{SQUASH}.py"
    replaces = [("shop", name) for name in PARTS]
    file.write_text(f"{file.read_text()}    replaces = {replaces}\n")


def health() -> int:
    """Return the answer of the gate in a process that starts now."""
    readiness.reset()
    middleware = InitializationMiddleware(lambda request: HttpResponse("served"))
    middleware(RequestFactory().get("/health/live"))
    readiness.wait(60)
    try:
        return middleware(RequestFactory().get("/health/db")).status_code
    finally:
        readiness.reset()


@pytest.mark.parametrize("keep_files", [True, False], ids=["kept", "deleted"])
def test_every_answer(records, shop, run, keep_files) -> None:
    """A squash of applied migrations is applied, whatever is asked, and nothing is written."""
    squash(shop, keep_files=keep_files)
    call_command("migrate", check_unapplied=True, verbosity=0)  # Django's answer
    before = records.applied_counts()
    assert run(SafeMigrate, "--check").code == 0
    plan = run(SafeMigrate, "--plan")
    assert (plan.code, "No planned migration" in plan.stdout) == (0, True)
    assert run(SafeMigrate, "--mode", "external", "--timeout", "60").code == 0
    assert run(Validate).code == 0
    status = json.loads(run(Status, "--json").stdout)
    assert (status["state"], status["pending"]) == ("ready", [])
    assert health() == 200
    assert records.applied_counts() == before
    assert len(records.runs()) == 1


@pytest.mark.parametrize("keep_files", [True, False], ids=["kept", "deleted"])
def test_the_first_start(records, shop, run, keep_files) -> None:
    """`safe_migrate` records the squash without running it, and has nothing to do afterwards."""
    squash(shop, keep_files=keep_files)
    assert initialize().applied == ()
    assert f"shop.{SQUASH}" in records.applied_counts()
    assert "nothing to do" in run(SafeMigrate).stdout
    assert len(records.runs()) == 2


def test_the_migration_after_the_squash(records, shop, run) -> None:
    """The status names what is pending, and calls no replaced migration unknown."""
    squash(shop, keep_files=False)
    shop.write("0003_more")
    status = json.loads(run(Status, "--json").stdout)
    assert (status["pending"], status["unknown"]) == (["shop.0003_more"], [])
    ended = run(SafeMigrate, "--check")
    assert (ended.code, "does not know" in ended.stderr) == (1, False)
    assert initialize().applied == ("shop.0003_more",)


def test_an_empty_database(records, shop, run) -> None:
    """On an empty database only the squash is pending, not the migrations that it replaces."""
    call_command("migrate", "shop", "zero", verbosity=0)
    squash(shop, keep_files=True)
    assert get_status().pending == (f"shop.{SQUASH}",)
    found = sample("default", current_build())
    assert len(found.known - found.replaced) == 1
    assert initialize().applied == (f"shop.{SQUASH}",)


def test_a_part_is_applied(records, shop, run) -> None:
    """While a replaced migration is missing, it is pending instead of the squash."""
    call_command("migrate", "shop", "0001", verbosity=0)
    squash(shop, keep_files=True)
    assert get_status().pending == ("shop.0002_sale",)
    assert initialize().applied == ("shop.0002_sale",)
    assert get_status().ready


def test_a_part_is_applied_and_the_files_are_gone(records, shop, run) -> None:
    """Django skips such a squash silently; here it is pending, and the error names the cause."""
    call_command("migrate", "shop", "0001", verbosity=0)
    squash(shop, keep_files=False)
    assert run(SafeMigrate, "--check").code == 1
    with pytest.raises(ValidationFailed, match="with a release that still has their"):
        initialize()
    assert health() == 503


def test_pruned_records(records, shop, run) -> None:
    """A squash counts without the records of its parts where Django's plan is empty."""
    squash(shop, keep_files=False)
    shop.write("0003_more")
    initialize()
    recorder = MigrationRecorder(connections["default"])
    for name in PARTS:
        recorder.record_unapplied("shop", name)
    call_command("migrate", check_unapplied=True, verbosity=0)
    assert run(SafeMigrate, "--check").code == 0
    assert health() == 200
    shop.write("0004_next")
    with pytest.raises(SystemExit):
        call_command("migrate", check_unapplied=True, verbosity=0)
    assert get_status().pending == (f"shop.{SQUASH}", "shop.0004_next")


def test_a_migration_that_cannot_be_imported(records, shop, run) -> None:
    """The status of a build with a broken file is not an error: the run is."""
    (shop.folder / "0003_broken.py").write_text("import nowhere  # replaces\n")
    assert get_status().pending == ("shop.0003_broken",)
    with pytest.raises((CommandError, Exception), match="nowhere"):
        initialize()
    assert "shop.0003_broken" not in sys.modules
