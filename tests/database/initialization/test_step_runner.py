"""Steps run once under the lock, together with their record."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.apps import apps
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction

from django_safe_init import (
    ConfigurationError,
    InitializationFailed,
    UnfinishedMigration,
    ValidationFailed,
    get_status,
    initialize,
    is_ready,
)
from django_safe_init.core.build import current_build
from django_safe_init.core.step import StepDefinition
from django_safe_init.core.step_registry import registry
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from django_safe_init.management.commands.safe_migrate import Command as SafeMigrate


@pytest.fixture(params=["postgresql", "sqlite"])
def default_database(request: pytest.FixtureRequest) -> Any:
    """Return a database of each engine as `default`."""
    name = "django_database" if request.param == "postgresql" else "lite"
    return request.getfixturevalue(name)


@pytest.fixture
def plain_shop(
    default_database: Any, small_shop: Any, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Return the small shop on a database without steps."""
    monkeypatch.setattr(registry, "_steps", [])
    monkeypatch.setattr(registry, "_is_complete", True)
    return small_shop


@pytest.fixture
def step(plain_shop: Any) -> Callable[..., StepDefinition]:
    """Return a function that replaces the shop's step of this name."""

    def add(function: Any = None, name: str = "seed", **options: Any) -> StepDefinition:
        made = StepDefinition("shop", name, function or insert("seed"), **options)
        registry._steps[:] = [each for each in registry._steps if each.name != name]
        registry.add(made)
        return made

    return add


def insert(name: str) -> Callable[..., None]:
    """Return a step function that inserts a product."""

    def function(context: Any) -> None:
        with context.connection.cursor() as cursor:
            cursor.execute("INSERT INTO shop_product (name) VALUES (%s)", [name])

    return function


def products(default_database: Any) -> list[str]:
    rows = default_database.rows("SELECT name FROM shop_product ORDER BY id")
    return [row["name"] for row in rows]


def recorded_steps(default_database: Any) -> list[tuple[str, str]]:
    """Return the names and outcomes of the recorded steps, without migrations."""
    return [
        (each["name"], each["outcome"])
        for each in default_database.steps()
        if each["kind"] == "step"
    ]


def force(**options: Any) -> Any:
    task = MigrateTask(lambda: run_migrate("default"), "test", **options)
    return Initializer(InitializationOptions(task, force=True)).run()


# When a step runs


def test_once(default_database: Any, step: Any) -> None:
    """A step runs in the leader's run after the migrations, and not again."""
    step()
    outcome = initialize()
    assert outcome.applied == ("shop.0001_initial", "shop.0002_sale")
    [run] = default_database.runs()
    assert (run["done"], run["total"], run["progress"]) == (3, 3, 100)
    assert recorded_steps(default_database) == [("shop.seed", "done")]
    assert initialize().role == "none"
    force()
    assert products(default_database) == ["seed"]


def test_a_new_step_makes_a_new_build(
    default_database: Any, plain_shop: Any, step: Any
) -> None:
    """A new step makes the database not ready until it has run; the old build stays ready."""
    initialize()
    before = current_build()
    step()
    assert current_build().fingerprint != before.fingerprint
    found = get_status()
    assert (found.ready, found.pending) == (False, ("shop.seed",))
    assert initialize().role == "leader"
    assert is_ready()
    registry._steps.clear()
    assert is_ready()


def test_an_empty_database(default_database: Any, step: Any) -> None:
    """On an empty database all migrations and then all steps are pending."""
    step()
    assert get_status().pending == ("shop.0001_initial", "shop.0002_sale", "shop.seed")


def test_migrated_by_django(default_database: Any, plain_shop: Any, step: Any) -> None:
    """After Django's own `migrate` the steps are pending."""
    run_migrate_by_django()
    step()
    assert get_status().pending == ("shop.seed",)
    initialize()
    assert products(default_database) == ["seed"]


def run_migrate_by_django() -> None:
    from django.core.management.commands.migrate import Command

    call_command(Command(), verbosity=0, interactive=False)


def test_versions(default_database: Any, step: Any) -> None:
    """A step with a higher version runs again, and an older build accepts it."""
    step(insert("one"))
    initialize()
    step(insert("two"), version=2)
    assert not is_ready()
    initialize()
    assert products(default_database) == ["one", "two"]
    step(insert("one"))
    assert is_ready()
    force()
    assert products(default_database) == ["one", "two"]


def test_always(default_database: Any, step: Any) -> None:
    """A step with `run="always"` runs in each run, not on a start that finds everything ready."""
    step(run="always")
    initialize()
    initialize()
    assert products(default_database) == ["seed"]
    force()
    assert products(default_database) == ["seed", "seed"]


def test_on_change(default_database: Any, step: Any) -> None:
    """A step with `run="on_change"` runs when its fingerprint differs from the last one."""
    step(insert("a"), run="on_change", fingerprint=lambda: "a")
    initialize()
    force()
    assert products(default_database) == ["a"]
    step(insert("b"), run="on_change", fingerprint=lambda: "b")
    assert not is_ready()
    initialize()
    assert products(default_database) == ["a", "b"]
    step(insert("a"), run="on_change", fingerprint=lambda: "a")
    assert is_ready()  # an older build accepts the newer fingerprint
    force()
    assert products(default_database) == ["a", "b", "a"]


def test_a_fingerprint_that_fails(plain_shop: Any, step: Any) -> None:
    """A fingerprint function that raises is a `ConfigurationError` of one sentence."""

    def fail() -> str:
        raise OSError("no such file")

    step(run="on_change", fingerprint=fail)
    with pytest.raises(ConfigurationError, match=r"shop\.seed cannot be found out: OS"):
        initialize()


def test_order(default_database: Any, step: Any) -> None:
    """A step runs after the steps in its `after`, whatever the order of registration."""
    step(insert("last"), name="last", after=("first", "shop.second"))
    step(insert("second"), name="second", after=("first",))
    step(insert("first"), name="first")
    initialize()
    assert products(default_database) == ["first", "second", "last"]


def test_an_invalid_step(plain_shop: Any, step: Any) -> None:
    """An invalid step is a `ConfigurationError`."""
    step(after=("nothing",))
    with pytest.raises(ConfigurationError, match=r"after shop\.nothing, which does no"):
        initialize()


def test_routers(default_database: Any, step: Any, settings: Any) -> None:
    """The steps of an app do not run on a database that has none of its models."""

    class Nowhere:
        def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
            return False

    step()
    settings.DATABASE_ROUTERS = [Nowhere()]
    initialize()
    assert recorded_steps(default_database) == []
    assert is_ready()


def test_a_deleted_record(default_database: Any, step: Any) -> None:
    """A step whose record was deleted runs again."""
    step()
    initialize()
    default_database.rows("DELETE FROM django_safe_init_step")
    assert initialize().role == "leader"
    assert products(default_database) == ["seed", "seed"]


def test_history(default_database: Any, step: Any, settings: Any) -> None:
    """HISTORY never deletes the record of a step's last run."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "HISTORY": 1}
    step()
    initialize()
    for _ in range(3):
        force()
    assert recorded_steps(default_database) == [("shop.seed", "done")]
    assert is_ready()
    assert products(default_database) == ["seed"]


# The function of a step


def test_the_context(plain_shop: Any, step: Any, caplog: Any) -> None:
    """A step's context has the alias, the connection and a logger."""
    caplog.set_level(logging.INFO)
    seen = []

    def read_context(context: Any) -> None:
        context.logger.info("at work")
        seen.append(
            (context.alias, context.connection is connection._connections["default"])
        )

    step(read_context)
    initialize()
    assert seen == [("default", True)]
    assert ("django_safe_init.steps.shop.seed", 20, "at work") in caplog.record_tuples


def test_async(default_database: Any, step: Any) -> None:
    """An `async def` step works in the same transaction with the async ORM."""

    async def seed(context: Any) -> None:
        await sync_to_async(insert("async"))(context)
        await sync_to_async(fail)()

    def fail() -> None:
        if once:
            once.pop()
            raise ValueError("not yet")

    once = [1]
    step(seed)
    with pytest.raises(InitializationFailed, match=r"shop\.seed: ValueError: not yet"):
        initialize()
    assert products(default_database) == []
    initialize()
    assert products(default_database) == ["async"]


def test_migrate_runs_no_steps(default_database: Any, step: Any) -> None:
    """The `migrate` command leaves the steps to the next `safe_migrate`."""
    step()
    call_command("migrate", verbosity=0)
    assert recorded_steps(default_database) == []
    assert default_database.newest_run()["outcome"] == "partial"
    assert get_status().pending == ("shop.seed",)
    initialize()
    assert products(default_database) == ["seed"]


def test_not_after_a_part_of_the_migrations(default_database: Any, step: Any) -> None:
    """No step runs if `migrate` left migrations unapplied."""
    step()
    task = MigrateTask(run_migrate_to_the_first, "test")
    with pytest.raises(ValidationFailed, match=r"shop\.0002_sale, shop\.seed"):
        Initializer(InitializationOptions(task)).run()
    assert recorded_steps(default_database) == []


def run_migrate_to_the_first() -> None:
    call_command("migrate", "shop", "0001", verbosity=0)


def test_a_step_that_calls_migrate(default_database: Any, step: Any) -> None:
    """A `migrate` that a step calls opens no run."""
    step(lambda context: call_command("migrate", verbosity=0))
    initialize()
    assert len(default_database.runs()) == 1


def test_in_the_plan(command_line: Any, plain_shop: Any, step: Any) -> None:
    """`--plan` lists the steps after the migrations."""
    assert (
        "Planned steps"
        not in command_line(SafeMigrate, "safe_migrate", "--plan").stdout
    )
    step()
    step(name="index", run="always", after=("seed",))
    planned = command_line(SafeMigrate, "safe_migrate", "--plan").stdout
    assert planned.endswith(
        "Planned steps:\nshop.seed\n    once, version 1\nshop.index\n    always, version 1\n"
    )
    registry._steps.pop()
    initialize()
    planned = command_line(SafeMigrate, "safe_migrate", "--plan").stdout
    assert planned.endswith("  No planned steps.\n")


# Exactly once


def test_a_step_that_raises(default_database: Any, step: Any) -> None:
    """A step that raises fails the run and is rolled back, and the next run repeats it."""

    def fail(context: Any) -> None:
        insert("half")(context)
        if wrong:
            raise ValueError(wrong.pop())

    wrong = ["no price"]
    step(fail)
    with pytest.raises(InitializationFailed, match=r"shop\.seed: ValueError: no price"):
        initialize()
    assert products(default_database) == []
    assert recorded_steps(default_database) == [("shop.seed", "failed")]
    assert default_database.newest_run()["outcome"] == "failed"
    assert get_status().error == "shop.seed: ValueError: no price"
    initialize()
    assert products(default_database) == ["half"]


def test_a_step_without_its_record(
    default_database: Any, step: Any, monkeypatch: Any
) -> None:
    """A step whose record cannot be completed is rolled back."""

    def lose_the_row(context: Any) -> None:
        insert("seed")(context)
        with context.connection.cursor() as cursor:
            cursor.execute("UPDATE django_safe_init_step SET position = -position")

    step(lose_the_row)
    with pytest.raises(InitializationFailed, match="in which the step is to be recor"):
        initialize()
    assert products(default_database) == []


def test_a_hook_that_fails(default_database: Any, step: Any) -> None:
    """A step stays recorded if an `on_commit` hook raises."""

    def fail() -> None:
        raise ValueError("no broker")

    def seed_and_tell(context: Any) -> None:
        insert("seed")(context)
        transaction.on_commit(fail)

    step(seed_and_tell)
    with pytest.raises(InitializationFailed, match="no broker"):
        initialize()
    assert recorded_steps(default_database) == [("shop.seed", "done")]
    assert initialize().result == "ready"
    assert products(default_database) == ["seed"]


def test_without_any_migration(default_database: Any, step: Any, settings: Any) -> None:
    """A step runs in a project without any migration."""
    settings.MIGRATION_MODULES = {each.label: None for each in apps.get_app_configs()}

    def make_table(context: Any) -> None:
        with context.connection.cursor() as cursor:
            cursor.execute("CREATE TABLE made (id int)")

    step(make_table)
    assert initialize().role == "leader"
    assert default_database.rows("SELECT * FROM made") == []
    assert is_ready()


def test_constraints(default_database: Any, step: Any) -> None:
    """A step that leaves a broken foreign key fails and is rolled back."""

    def break_it(context: Any) -> None:
        with context.connection.cursor() as cursor:
            cursor.execute("INSERT INTO shop_sale (product_id) VALUES (99)")

    step(break_it)
    with pytest.raises(InitializationFailed, match=r"shop\.seed: Integrity") as caught:
        initialize()
    assert isinstance(caught.value.__cause__, IntegrityError)
    assert default_database.value("SELECT count(*) FROM shop_sale") == 0


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_step_that_ends_its_transaction(
    default_database: Any, step: Any, end: str
) -> None:
    """A step that ends its transaction fails, and the error recommends `atomic=False`."""

    def wrong(context: Any) -> None:
        insert("seed")(context)
        with context.connection.cursor() as cursor:
            cursor.execute(end)

    step(wrong)
    with pytest.raises(InitializationFailed, match=r"needs atomic ?= ?False"):
        initialize()
    assert recorded_steps(default_database) == [("shop.seed", "failed")]


def test_a_script_that_ends_its_transaction(
    django_database: Any, small_shop: Any, monkeypatch: Any
) -> None:
    """A step fails if one of several statements sent as one ends its transaction."""

    def wrong(context: Any) -> None:
        with context.connection.cursor() as cursor:
            cursor.execute(
                "SELECT 1; ROLLBACK; INSERT INTO shop_product (name) VALUES ('x')"
            )

    monkeypatch.setattr(registry, "_steps", [StepDefinition("shop", "seed", wrong)])
    monkeypatch.setattr(registry, "_is_complete", True)
    with pytest.raises(InitializationFailed, match="needs atomic=False"):
        initialize()
    assert recorded_steps(django_database) == [("shop.seed", "failed")]


# Without a transaction


def test_not_atomic(default_database: Any, step: Any) -> None:
    """A step with `atomic=False` runs without a transaction."""

    def read_atomic(context: Any) -> None:
        seen.append(context.connection.in_atomic_block)
        insert("seed")(context)

    seen: list[bool] = []
    step(read_atomic, atomic=False)
    initialize()
    assert seen == [False]
    assert products(default_database) == ["seed"]
    assert [each["atomic"] for each in default_database.steps()][-1] in (False, 0)


def test_an_open_transaction_at_the_end(default_database: Any, step: Any) -> None:
    """A non-atomic step that leaves a transaction open fails, and its changes are lost."""

    def begin(context: Any) -> None:
        with context.connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("INSERT INTO shop_product (name) VALUES ('lost')")

    step(begin, atomic=False)
    with pytest.raises(InitializationFailed, match="has left a transaction open"):
        initialize()
    assert products(default_database) == []


def test_a_step_that_opens_transactions(default_database: Any, step: Any) -> None:
    """A non-atomic step may open transactions and close the connection."""

    def work(context: Any) -> None:
        with transaction.atomic():
            insert("seed")(context)
        context.connection.close()

    step(work, atomic=False)
    initialize()
    assert products(default_database) == ["seed"]


@pytest.mark.parametrize("policy", ["report", "rerun"])
def test_interrupted(
    default_database: Any, step: Any, settings: Any, policy: str
) -> None:
    """UNFINISHED decides about an interrupted non-atomic step."""

    def fail(context: Any) -> None:
        insert("half")(context)
        raise KeyboardInterrupt

    settings.SAFE_INIT = {**settings.SAFE_INIT, "UNFINISHED": policy}
    step(fail, atomic=False)
    with pytest.raises(KeyboardInterrupt):
        initialize()
    step(insert("whole"), atomic=False)
    if policy == "report":
        with pytest.raises(
            UnfinishedMigration, match=r"safe_migrate --rerun shop\.seed"
        ):
            initialize()
        force(rerun=("shop.seed",))
    else:
        initialize()
    assert products(default_database) == ["half", "whole"]
    assert is_ready()


def test_an_interrupted_step_that_always_runs(default_database: Any, step: Any) -> None:
    """An interrupted step with `run="always"` runs again without a decision."""

    def fail(context: Any) -> None:
        raise KeyboardInterrupt

    step(fail, atomic=False, run="always")
    with pytest.raises(KeyboardInterrupt):
        initialize()
    step(insert("seed"), atomic=False, run="always")
    initialize()
    assert products(default_database) == ["seed"]


# A role without access


def test_a_role_that_may_not_read_the_records(
    django_database: Any,
    small_shop: Any,
    monkeypatch: Any,
    new_role: Any,
    log_in_as: Any,
) -> None:
    """For a role that may not read the steps, readiness depends on the migrations."""
    monkeypatch.setattr(
        registry, "_steps", [StepDefinition("shop", "seed", insert("seed"))]
    )
    monkeypatch.setattr(registry, "_is_complete", True)
    initialize()
    role = new_role("reader_of_steps")
    django_database.rows(f"GRANT SELECT ON django_migrations TO {role}")
    log_in_as(USER=role)
    assert is_ready()
    log_in_as(USER="postgres")
    django_database.rows("DELETE FROM django_safe_init_step")
    assert not is_ready()
    log_in_as(USER=role)
    assert is_ready()
