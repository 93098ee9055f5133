"""The build lists the migrations that Django's loader would find in the folders."""

from __future__ import annotations

import importlib
import py_compile
import sys
import zipfile
from types import SimpleNamespace

import pytest
from django.db.migrations.loader import MigrationLoader

from django_safe_init.core import build
from django_safe_init.core.build import current_build
from django_safe_init.exceptions import ConfigurationError

MIGRATION = (
    "from django.db import migrations\nclass Migration(migrations.Migration): pass\n"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An importable folder for packages of migrations."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def make_package(folder, name: str, *files: str, init: bool = True) -> str:
    package = folder / name
    package.mkdir()
    for file in (("__init__.py",) if init else ()) + files:
        (package / file).write_text("" if file == "__init__.py" else MIGRATION)
    importlib.invalidate_caches()
    return name


def names_of(label: str) -> set[str]:
    names = current_build().migrations
    return {name for name in names if name.startswith(f"{label}.")}


def test_names() -> None:
    """A build knows the migrations of the installed apps by app and file name."""
    assert "contenttypes.0001_initial" in current_build().migrations
    assert "auth.0001_initial" in current_build().migrations
    assert names_of("django_safe_init") == set()


def test_agrees_with_django() -> None:
    """The build has the same names as Django's loader."""
    loader = MigrationLoader(None, ignore_no_migrations=True)
    assert current_build().migrations == {
        f"{app}.{name}" for app, name in loader.disk_migrations
    }


def test_no_migration_is_imported(settings, folder) -> None:
    """Reading the build imports no migration."""
    package = make_package(folder, "quiet_migrations", "0001_initial.py")
    (folder / package / "0002_loud.py").write_text("raise RuntimeError('imported')")
    settings.MIGRATION_MODULES = {"auth": package}
    before = set(sys.modules)
    assert names_of("auth") == {"auth.0001_initial", "auth.0002_loud"}
    new = set(sys.modules) - before
    assert new == set()


def test_ignored_files(settings, folder) -> None:
    """The build ignores packages and files that begin with _ or ~, as Django does."""
    package = make_package(
        folder, "mixed_migrations", "0001_initial.py", "_helper.py", "~backup.py"
    )
    make_package(folder / package, "nested", "0009_nested.py")
    (folder / package / "notes.txt").write_text("")
    settings.MIGRATION_MODULES = {"auth": package}
    assert names_of("auth") == {"auth.0001_initial"}
    assert set(MigrationLoader(None).disk_migrations) >= {("auth", "0001_initial")}


def test_app_without_migrations(settings) -> None:
    """The value None in MIGRATION_MODULES disables the migrations of an app."""
    settings.MIGRATION_MODULES = {"auth": None}
    assert names_of("auth") == set()


def test_missing_module(settings) -> None:
    """An error names the app and the missing module in MIGRATION_MODULES."""
    settings.MIGRATION_MODULES = {"auth": "nowhere_migrations"}
    with pytest.raises(ConfigurationError) as caught:
        current_build()
    assert str(caught.value) == (
        "MIGRATION_MODULES['auth'] names 'nowhere_migrations', which cannot be imported."
    )


def test_missing_module_in_a_missing_package(settings) -> None:
    """The error is the same for a module in a missing package."""
    settings.MIGRATION_MODULES = {"auth": "nowhere.migrations"}
    with pytest.raises(ConfigurationError, match=r"'nowhere\.migrations'"):
        current_build()


def test_namespace_package(settings, folder) -> None:
    """A folder without __init__.py has no migrations, for Django too."""
    package = make_package(folder, "bare_migrations", "0001_initial.py", init=False)
    settings.MIGRATION_MODULES = {"auth": package}
    assert names_of("auth") == set()
    loader = MigrationLoader(None, ignore_no_migrations=True)
    assert "auth" in loader.unmigrated_apps


def test_plain_module(settings, folder) -> None:
    """A module instead of a package has no migrations, for Django too."""
    (folder / "plain_migrations.py").write_text("")
    importlib.invalidate_caches()
    settings.MIGRATION_MODULES = {"auth": "plain_migrations"}
    assert names_of("auth") == set()
    loader = MigrationLoader(None, ignore_no_migrations=True)
    assert "auth" in loader.unmigrated_apps


def test_equal_builds_have_equal_fingerprints() -> None:
    """The fingerprint is stable, short and alphanumeric."""
    first, second = current_build(), current_build()
    assert first == second
    assert len(first.fingerprint) == 24
    assert first.fingerprint.isalnum()


def test_a_migration_makes_another_build(settings, folder) -> None:
    """A new migration changes the fingerprint."""
    package = make_package(folder, "growing_migrations", "0001_initial.py")
    settings.MIGRATION_MODULES = {"auth": package}
    before = current_build().fingerprint
    (folder / package / "0002_more.py").write_text(MIGRATION)
    importlib.invalidate_caches()
    assert current_build().fingerprint != before


def test_an_app_makes_another_build(settings) -> None:
    """A new app changes the fingerprint, because it may have `post_migrate` receivers."""
    before = current_build()
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "django.contrib.messages"]
    after = current_build()
    assert after.migrations == before.migrations
    assert after.fingerprint != before.fingerprint


def test_another_version_of_this_package_makes_another_build(monkeypatch) -> None:
    """Another version of django-safe-init changes the fingerprint."""
    before = current_build().fingerprint
    monkeypatch.setattr(build, "__version__", "999")
    assert current_build().fingerprint != before


def test_another_django_makes_another_build(monkeypatch) -> None:
    """Another version of Django changes the fingerprint."""
    before = current_build().fingerprint
    monkeypatch.setattr(build, "django", SimpleNamespace(get_version=lambda: "999"))
    assert current_build().fingerprint != before


def test_beside_a_package(folder, settings) -> None:
    """A package hides the module of the same name; a folder without __init__.py does not."""
    name = make_package(folder, "mixed", "0001_initial.py", "0002_more.py")
    make_package(folder / name, "0001_initial", "__init__.py")
    (folder / name / "0002_more").mkdir()
    (folder / name / "0003.dotted.py").write_text("")
    settings.MIGRATION_MODULES = {"auth": name}
    assert names_of("auth") == {"auth.0002_more"}


def test_compiled(folder, settings) -> None:
    """The build finds a migration without its source."""
    name = make_package(folder, "compiled", "0001_initial.py")
    source = folder / name / "0001_initial.py"
    py_compile.compile(source, source.with_suffix(".pyc"))
    source.unlink()
    settings.MIGRATION_MODULES = {"auth": name}
    assert names_of("auth") == {"auth.0001_initial"}
    loader = MigrationLoader(None, ignore_no_migrations=True)
    assert ("auth", "0001_initial") in loader.disk_migrations


def test_in_an_archive(folder, settings, monkeypatch) -> None:
    """The build finds migrations in a zip archive."""
    archive = folder / "apps.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped/__init__.py", "")
        file.writestr("zipped/0001_initial.py", MIGRATION)
    monkeypatch.syspath_prepend(archive)
    settings.MIGRATION_MODULES = {"auth": "zipped"}
    assert names_of("auth") == {"auth.0001_initial"}
