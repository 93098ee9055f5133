"""The registry finds steps and sorts them, and the built-in steps register themselves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from django.apps import AppConfig, apps
from django.core.management import call_command as run_command

from django_safe_init import ConfigurationError, init_step, steps
from django_safe_init.core.build import current_build
from django_safe_init.core.step import (
    CompletedStep,
    StepDefinition,
    completed_step,
    missing_steps,
)
from django_safe_init.core.step_registry import Registry, iter_errors, registry
from django_safe_init.management import checks
from django_safe_init.steps import builtin


def nothing(context: Any) -> None: ...


def step(name: str, *after: str, **options: Any) -> StepDefinition:
    return StepDefinition("shop", name, nothing, after=after, **options)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry without steps; each step that a test registers belongs to the app `shop`."""
    monkeypatch.setattr(registry, "_steps", [])
    monkeypatch.setattr(registry, "_is_complete", True)
    monkeypatch.setattr(registry, "_app", SimpleNamespace(label="shop"))
    return registry


# Registered


def test_registered(own: Registry) -> None:
    """The decorator returns the function; the step has its name unless another is given."""

    @init_step
    def seed(context: Any) -> None: ...

    @init_step(name="index", version=2, run="always", after=["seed"], atomic=False)
    def other(context: Any) -> None: ...

    assert [each.label for each in own.ordered()] == ["shop.seed", "shop.index"]
    first, second = own.steps()
    assert (first.function, first.version, first.run) == (seed, 1, "once")
    assert (first.after, first.atomic) == ((), True)
    assert (second.function, second.version, second.run) == (other, 2, "always")
    assert (second.after, second.atomic) == (("seed",), False)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": "0001_initial"}, "shop.0001_initial has a name that is no word"),
        ({"name": "a.b"}, "has a name that is no word"),
        ({"run": "never"}, "has run='never': use one of 'once', 'always', 'on_change'"),
        ({"run": "on_change"}, "needs both or neither"),
        ({"fingerprint": str}, "needs both or neither"),
        ({"version": 0}, "has version=0: use a whole number from 1 to"),
        ({"version": 202608011230}, "use a whole number from 1 to 2147483647"),
        ({"version": 1.5}, "has version=1.5"),
        ({"version": True}, "has version=True"),
        ({"version": "2"}, "has version='2'"),
        ({"phase": "late"}, "has phase='late': use one of 'schema', 'privileged'"),
        ({"phase": "privileged"}, 'needs both or neither: phase="privileged" and done'),
        ({"done": bool}, 'needs both or neither: phase="privileged" and done'),
    ],
)
def test_invalid_arguments(own: Registry, options: Any, error: str) -> None:
    """`init_step` raises an error for an invalid argument."""
    with pytest.raises(ConfigurationError, match=error):
        init_step(nothing, **options)


def test_of_no_app() -> None:
    """A step belongs to the app of its module, else to the app whose steps are being imported."""
    with pytest.raises(ConfigurationError, match="belongs to no installed app"):
        init_step(nothing)
    assert Registry().app_label("django.contrib.auth.models") == "auth"


# Found


@pytest.fixture
def warehouse(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The folder of an app that the test writes; it is the only app with steps."""
    folder = tmp_path / "warehouse"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(registry, "_steps", [])
    monkeypatch.setattr(registry, "_is_complete", False)
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "warehouse"]
    yield folder
    for name in [name for name in sys.modules if name.startswith("warehouse")]:
        del sys.modules[name]


def test_found(warehouse: Path) -> None:
    """The first use of the build imports the `init_steps` of an app."""
    text = (
        "from django_safe_init import init_step\n@init_step\ndef seed(context): ...\n"
    )
    (warehouse / "init_steps.py").write_text(text)
    [found] = current_build().steps
    assert found.label == "warehouse.seed"
    assert current_build().steps == (found,)


def test_a_module_that_is_imported_first(warehouse: Path) -> None:
    """An early import of an `init_steps` registers its steps once, for the right app."""
    text = (
        "from django_safe_init import init_step\n@init_step\ndef seed(context): ...\n"
    )
    (warehouse / "init_steps.py").write_text(text)
    registry._app = SimpleNamespace(label="shop")  # the importing app
    import_module("warehouse.init_steps")
    registry._app = None
    assert [each.label for each in current_build().steps] == ["warehouse.seed"]


def test_a_part_that_fails(warehouse: Path) -> None:
    """Steps that were registered before an error are registered once after it is fixed."""
    (warehouse / "init_steps").mkdir()
    good = "from django_safe_init import init_step\n@init_step\ndef {}(context): ...\n"
    package = warehouse / "init_steps/__init__.py"
    (warehouse / "init_steps/part.py").write_text(good.format("part"))
    package.write_text(
        f"from . import part\n{good.format('whole')}raise ValueError('broken')"
    )
    with pytest.raises(ValueError, match="broken"):
        current_build()
    package.write_text(f"from . import part\n{good.format('whole')}")
    invalidate_caches()
    assert {each.label for each in current_build().steps} == {
        "warehouse.part",
        "warehouse.whole",
    }


def test_an_invalid_step_fails_a_system_check(warehouse: Path) -> None:
    """`manage.py check` reports an invalid step, and other checks still work."""
    text = (
        "from django_safe_init import init_step\n"
        "@init_step(run='sometimes')\ndef seed(context): ...\n"
    )
    (warehouse / "init_steps.py").write_text(text)
    [error] = checks.check_steps(None)
    assert error.id == "safe_init.E008"
    assert "warehouse.seed has run='sometimes'" in error.msg
    assert checks.check_serving_role(None, ["default"]) == []


def test_a_package_of_steps(warehouse: Path) -> None:
    """`init_steps` may be a package."""
    (warehouse / "init_steps").mkdir()
    text = (
        "from django_safe_init import init_step\n@init_step\ndef seed(context): ...\n"
    )
    (warehouse / "init_steps/__init__.py").write_text(text)
    assert [each.label for each in current_build().steps] == ["warehouse.seed"]


def test_a_module_that_fails(warehouse: Path) -> None:
    """The error of an `init_steps` is raised on each use, until the module is fixed."""
    (warehouse / "init_steps.py").write_text("raise ValueError('broken')")
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            current_build()
    (warehouse / "init_steps.py").unlink()
    sys.modules.pop("warehouse.init_steps", None)
    assert current_build().steps == ()


def test_unusual_locations(warehouse: Path) -> None:
    """The registry accepts an app in a zip archive, and an app without a folder."""
    archived = SimpleNamespace(
        module=SimpleNamespace(__path__=["/nowhere.zip/app"], __name__="app"),
        label="odd",
        name="app",
    )
    single = SimpleNamespace(module=ModuleType("single"), label="single", name="single")
    found = Registry()
    configs: list[Any] = [archived, single]
    found._import_from(configs)
    assert found._steps == []


def test_of_an_app_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method `initialize_database` of an `AppConfig` is a step with `run="always"`."""
    config = apps.get_app_config("django_safe_init")
    monkeypatch.setattr(AppConfig, "initialize_database", nothing, raising=False)
    found = Registry()
    found._add_methods_of([config])
    [made] = found._steps
    assert (made.label, made.run) == ("django_safe_init.initialize_database", "always")
    assert made.function == config.initialize_database


# In order


def test_errors_of_all_steps() -> None:
    """Duplicate names, unknown predecessors and cycles are errors with a hint."""
    assert iter_errors([step("a"), step("b", "a")]) == []
    [twice] = iter_errors([step("a"), step("a")])
    assert (twice.kind, twice.message) == (
        "name",
        "Two steps are called shop.a.",
    )
    [nowhere] = iter_errors([step("a", "other.b")])
    assert nowhere.kind == "after"
    assert "shop.a comes after other.b, which does not exist" in nowhere.message
    later = [step("a"), step("b", "a", phase="privileged"), step("c", "b")]
    [never] = iter_errors(later)
    assert never.kind == "after"
    assert never.message == (
        "The privileged step shop.b comes after shop.a, which is not privileged."
    )
    [cycle] = iter_errors([step("a", "b"), step("b", "a"), step("c")])
    assert cycle.kind == "cycle"
    assert "in a circle: shop.a, shop.b" in cycle.message


def test_the_check(own: Registry) -> None:
    """System checks report the errors, and `current_build` raises them."""
    assert checks.check_steps(None) == []
    own.add(step("a", "b"))
    [error] = checks.check_steps(None)
    assert error.id == "safe_init.E006"
    with pytest.raises(ConfigurationError, match=r"There are: shop\.a"):
        current_build()


# Satisfied, and due


@pytest.mark.parametrize(
    ("wanted", "records", "covered", "due"),
    [
        (step("a"), [], False, True),
        (step("a"), [CompletedStep("shop.b", 1, None)], False, True),
        (step("a"), [CompletedStep("shop.a", 1, None)], True, False),
        (step("a", version=2), [CompletedStep("shop.a", 1, None)], False, True),
        (step("a"), [CompletedStep("shop.a", 2, None)], True, False),
        (step("a", run="always"), [CompletedStep("shop.a", 1, None)], True, True),
    ],
)
def test_satisfied_and_due(
    wanted: StepDefinition, records: Any, covered: bool, due: bool
) -> None:
    """A completed version satisfies the same and older ones; `run="always"` is always due."""
    assert wanted.is_satisfied_by(records) is covered
    assert wanted.is_due(records) is due
    assert missing_steps([wanted], records) == (() if covered else ("shop.a",))


def test_satisfied_by_a_fingerprint() -> None:
    """Readiness accepts any completion with the fingerprint, a leader only the last."""
    wanted = step("a", run="on_change", fingerprint=lambda: "x")
    new, old = CompletedStep("shop.a", 1, "y"), CompletedStep("shop.a", 1, "x")
    assert (wanted.is_satisfied_by([new, old]), wanted.is_due([new, old])) == (
        True,
        True,
    )
    assert (wanted.is_satisfied_by([old, new]), wanted.is_due([old, new])) == (
        True,
        False,
    )
    assert (wanted.is_satisfied_by([new]), wanted.is_due([new])) == (False, True)


def test_rows() -> None:
    """A recorded step is read with and without details."""
    assert completed_step("shop.a", {"version": 3, "print": "x"}) == CompletedStep(
        "shop.a", 3, "x"
    )
    assert completed_step("shop.a", None) == CompletedStep("shop.a", 0, None)


# Built-in steps


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The management commands that were called."""
    calls: list[Any] = []
    monkeypatch.setattr(
        builtin.management, "call_command", lambda *a, **k: calls.append((a, k))
    )
    return calls


CONTEXT: Any = SimpleNamespace(alias="second")


def test_cache_table(own: Registry, called: list[Any], settings: Any) -> None:
    """`cache_table` calls createcachetable, and runs again when the caches' tables change."""
    steps.cache_table()
    [made] = own.steps()
    assert (made.label, made.run, made.fingerprint_text) == (
        "shop.cache_table",
        "on_change",
        "",
    )
    backend = "django.core.cache.backends.db.DatabaseCache"
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
        "slow": {"BACKEND": backend, "LOCATION": "slow_cache"},
    }
    steps.cache_table(name="again")
    assert own.steps()[-1].fingerprint_text == "slow_cache"
    made.call(CONTEXT)
    assert called == [(("createcachetable",), {"database": "second", "verbosity": 0})]


def test_load_fixture(own: Registry, called: list[Any]) -> None:
    """`load_fixture` calls loaddata once, and its name contains the fixtures."""
    steps.load_fixture("currencies.json", "countries", version=2)
    [made] = own.steps()
    assert (made.label, made.run) == ("shop.load_currencies_countries", "once")
    assert made.version == 2
    made.call(CONTEXT)
    options = {"database": "second", "verbosity": 0}
    assert called == [(("loaddata", "currencies.json", "countries"), options)]


def test_call_command(own: Registry, called: list[Any]) -> None:
    """`call_command` passes arguments and options to the command."""
    steps.call_command("rebuild_index", "--quiet", options={"depth": 2}, after=["seed"])
    [made] = own.steps()
    assert (made.label, made.after) == ("shop.rebuild_index", ("seed",))
    made.call(CONTEXT)
    assert called == [(("rebuild_index", "--quiet"), {"depth": 2})]


def test_run_sql(own: Registry, tmp_path: Path, monkeypatch: Any) -> None:
    """`run_sql` executes a file of the app, and runs again when the file changes."""
    config = SimpleNamespace(path=str(tmp_path))
    monkeypatch.setattr(builtin.apps, "get_app_config", lambda label: config)
    (tmp_path / "views.sql").write_text("SELECT 1; SELECT 2")
    steps.run_sql("views.sql")
    [made] = own.steps()
    assert (made.label, made.run) == ("shop.sql_views", "on_change")
    assert len(made.fingerprint_text or "") == 64
    done: list[str] = []

    class Cursor:
        execute = staticmethod(done.append)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *exc_info: Any) -> None: ...

    ops = SimpleNamespace(prepare_sql_script=lambda script: script.split("; "))
    made.call(SimpleNamespace(connection=SimpleNamespace(cursor=Cursor, ops=ops)))
    assert done == ["SELECT 1", "SELECT 2"]


def test_public_names() -> None:
    """The package exports the names in `__all__` and no others."""
    assert all(getattr(steps, name) is not None for name in steps.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = steps.nothing


def test_with_the_real_commands() -> None:
    """Django has the commands with these options."""
    for command in ("createcachetable", "loaddata"):
        with pytest.raises(SystemExit) as caught:
            run_command(command, "--help")
        assert caught.value.code == 0
