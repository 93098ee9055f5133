"""Lookup of the project's `migrate` command."""

from __future__ import annotations

from django.core.management import get_commands, load_command_class
from django.core.management.commands.migrate import Command as DjangoMigrate

from django_safe_init.initialization.migrate_command import (
    apps_with_migrate,
    extends_ours,
    migrate_command,
    next_migrate,
)
from django_safe_init.management.commands.migrate import Command as OurMigrate


def test_ours_wins() -> None:
    """The project's `migrate` is the first app's."""
    assert get_commands()["migrate"] == "django_safe_init"
    assert apps_with_migrate() == ["django_safe_init"]
    assert next_migrate() is DjangoMigrate


def test_ours_extends_the_next(settings) -> None:
    """This package's `migrate` extends the `migrate` of a later app."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "syzygy"]
    assert apps_with_migrate() == ["django_safe_init", "syzygy"]
    assert next_migrate().__module__ == "syzygy.management.commands.migrate"


def test_management_that_is_no_package(settings) -> None:
    """An app whose `management` is a plain module, such as `sites`, has no command."""
    settings.INSTALLED_APPS = ["django_safe_init", "django.contrib.sites"]
    assert apps_with_migrate() == ["django_safe_init"]


def test_ours_does_not_extend_an_earlier_one(settings) -> None:
    """This package's `migrate` never extends the `migrate` of an earlier app."""
    settings.INSTALLED_APPS = ["syzygy", *settings.INSTALLED_APPS]
    assert next_migrate() is DjangoMigrate


def test_not_installed(settings) -> None:
    """The command extends Django's `migrate` if the package is not installed."""
    settings.INSTALLED_APPS = ["django.contrib.contenttypes"]
    assert next_migrate() is DjangoMigrate


def test_the_command_that_runs(settings, monkeypatch) -> None:
    """The library runs the project's `migrate` if it extends this package's, else that one."""
    assert type(migrate_command()) is OurMigrate
    settings.INSTALLED_APPS = ["syzygy", *settings.INSTALLED_APPS]
    assert not extends_ours(load_command_class("syzygy", "migrate"))
    assert type(migrate_command()) is OurMigrate

    class Theirs(OurMigrate):
        pass

    from syzygy.management.commands import migrate

    monkeypatch.setattr(migrate, "Command", Theirs)
    assert type(migrate_command()) is Theirs
