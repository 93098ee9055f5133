"""A migration counts as applied if Django's loader calls it applied, also a squashed one."""

from __future__ import annotations

import importlib
import py_compile
import sys
from itertools import chain, combinations
from typing import Any

import django
import pytest
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.exceptions import InconsistentMigrationHistory
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder

from django_safe_init.core.build import current_build
from django_safe_init.core.replacements import resolve

A, B, C, D = "0001_a", "0002_b", "0003_c", "0004_d"
SQUASH, OUTER = "0001_squashed_0002_b", "0001_squashed_0003_c"
_TEMPLATE = """\
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = {dependencies}
    replaces = {replaces}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, settings):
    """The folder with the migrations of the app `sessions`, the only app that has any."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    package = tmp_path / "squashed_migrations"
    package.mkdir()
    (package / "__init__.py").write_text("")
    settings.INSTALLED_APPS = ["django.contrib.sessions"]
    settings.MIGRATION_MODULES = {"sessions": package.name}
    yield package
    for name in [name for name in sys.modules if name.startswith(package.name)]:
        del sys.modules[name]


def write(folder, name: str, *after: str, replaces: tuple[str, ...] = ()) -> None:
    text = _TEMPLATE.format(
        dependencies=[("sessions", each) for each in after],
        replaces=[("sessions", each) for each in replaces],
    )
    (folder / f"{name}.py").write_text(text)
    importlib.invalidate_caches()


def full(names) -> set[str]:
    return {f"sessions.{name}" for name in names}


def pending(recorded) -> set[str]:
    """Return the names that this package calls pending."""
    build = current_build()
    return set(build.pending(full(recorded)))


def planned(recorded, monkeypatch) -> set[str] | None:
    """Return the names in the plan of Django's `migrate`, or None if Django refuses to plan."""
    rows = {("sessions", name): None for name in recorded}
    monkeypatch.setattr(
        MigrationRecorder, "applied_migrations", lambda self: dict(rows)
    )
    executor: Any = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
    try:
        executor.loader.check_consistent_history(executor.connection)
    except InconsistentMigrationHistory:
        return None
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return {f"{each.app_label}.{each.name}" for each, backwards in plan}


def assert_agrees(recorded, monkeypatch) -> None:
    found, plan = pending(recorded), planned(recorded, monkeypatch)
    assert found if plan is None else found == plan, (recorded, found, plan)


def subsets(*names: str) -> list[tuple[str, ...]]:
    sizes = range(len(names) + 1)
    return list(chain.from_iterable(combinations(names, size) for size in sizes))


def test_a_squash_beside_its_files(folder, monkeypatch) -> None:
    """Whatever is recorded, the pending migrations are the ones in Django's plan."""
    write(folder, A)
    write(folder, B, A)
    write(folder, SQUASH, replaces=(A, B))
    write(folder, C, B)
    for recorded in subsets(A, B, C, SQUASH):
        assert_agrees(recorded, monkeypatch)


def test_a_squash_without_its_files(folder, monkeypatch) -> None:
    """The answer is the same after the replaced files are deleted."""
    write(folder, SQUASH, replaces=(A, B))
    write(folder, C, SQUASH)
    for recorded in subsets(A, B, C, SQUASH):
        partly = len({A, B}.intersection(recorded)) == 1
        if partly and SQUASH not in recorded:
            # Django drops the squash from its plan.
            assert f"sessions.{SQUASH}" in pending(recorded), recorded
        else:
            assert_agrees(recorded, monkeypatch)


def test_a_squash_of_a_squash(folder, monkeypatch) -> None:
    """A squash may replace another one. Django before 6.0 depends on the order of its files."""
    write(folder, A)
    write(folder, B, A)
    write(folder, C, B)
    write(folder, SQUASH, replaces=(A, B))
    write(folder, OUTER, replaces=(SQUASH, C))
    write(folder, D, C)
    for recorded in subsets(A, B, C, D, SQUASH, OUTER):
        if django.VERSION >= (6, 0):
            assert_agrees(recorded, monkeypatch)
        elif not {SQUASH, OUTER}.intersection(recorded):
            done = {A, B, C, D}.issubset(recorded)
            assert bool(pending(recorded)) == (not done), recorded


def test_a_squash_of_a_squash_without_its_files(folder) -> None:
    """Only the newest squash is left: it replaces the other one by its name."""
    write(folder, OUTER, replaces=(SQUASH, C))
    for recorded in subsets(A, B, C, SQUASH):
        done = {SQUASH, C}.issubset(recorded)
        assert pending(recorded) == (set() if done else full([OUTER])), recorded


def test_deleted_files_below_the_inner_squash(folder) -> None:
    """The squash that is named is the one which Django would apply."""
    write(folder, SQUASH, replaces=(A, B))
    write(folder, C, SQUASH)
    write(folder, OUTER, replaces=(SQUASH, C))
    assert pending([C]) == full([SQUASH])
    assert pending([A, C]) == full([SQUASH])
    assert pending([]) == full([OUTER])


def test_records_without_a_plan(folder) -> None:
    """If Django refuses its files, a squash whose parts are not recorded is pending."""
    write(folder, SQUASH, replaces=(A, B))
    assert pending([SQUASH]) == full([SQUASH])
    write(folder, D, C)  # a file is missing
    assert pending([SQUASH]) == full([SQUASH, D])


def test_known_migrations(folder) -> None:
    """A build knows the migrations that its squashes replace, also without their files."""
    write(folder, SQUASH, replaces=(A, B))
    build = current_build()
    assert build.migrations == full([SQUASH])
    assert build.required == full([A, B])
    assert build.known == full([SQUASH, A, B])


def test_files_that_replace_nothing_are_not_imported(folder) -> None:
    """Only the files whose text may contain `replaces` are imported."""
    (folder / "0001_a.py").write_text(
        "from django.db import migrations\n\n\n"
        "class Migration(migrations.Migration):\n    pass\n"
    )
    write(folder, SQUASH, replaces=(A, B))
    assert current_build().replacements
    assert f"{folder.name}.{SQUASH}" in sys.modules
    assert f"{folder.name}.{A}" not in sys.modules


def test_replaces_of_a_base_class(folder) -> None:
    """A class that inherits `replaces` from another module is a squash, too."""
    write(folder, "_base", replaces=(A, B))
    (folder / f"{SQUASH}.py").write_text("from ._base import Migration\n")
    assert pending([A, B]) == set()


def test_a_compiled_squash(folder) -> None:
    """A squash without its source is imported."""
    write(folder, SQUASH, replaces=(A, B))
    source = folder / f"{SQUASH}.py"
    py_compile.compile(source, source.with_suffix(".pyc"))
    source.unlink()
    assert pending([A, B]) == set()


@pytest.mark.parametrize("text", ["import nowhere  # replaces", "replaces = 1", "("])
def test_a_broken_migration(folder, text) -> None:
    """A file that cannot be imported is a plain migration: `migrate` reports its error."""
    (folder / f"{A}.py").write_text(text)
    assert current_build().replacements == {}
    assert pending([]) == full([A])


def test_a_circle() -> None:
    """A circle of squashes, which Django refuses, ends."""
    circle = {"a.1": ("a.2",), "a.2": ("a.1",)}
    assert resolve(circle) == {"a.1": {"a.1"}, "a.2": {"a.2"}}
