"""Steps: work that is no migration, done under the lock, exactly once."""

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
def either(request: pytest.FixtureRequest) -> Any:
    """One of each engine, as `default`."""
    name = "django_database" if request.param == "postgresql" else "lite"
    return request.getfixturevalue(name)


@pytest.fixture
def plain_shop(either: Any, small_shop: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The small shop, whose database is there; it has no steps yet."""
    monkeypatch.setattr(registry, "_steps", [])
    monkeypatch.setattr(registry, "_is_complete", True)
    return small_shop


@pytest.fixture
def step(plain_shop: Any) -> Callable[..., StepDefinition]:
    """Gives the shop a step; of one name there is only the last."""

    def add(function: Any = None, name: str = "seed", **options: Any) -> StepDefinition:
        made = StepDefinition("shop", name, function or insert("seed"), **options)
        registry._steps[:] = [each for each in registry._steps if each.name != name]
        registry.add(made)
        return made

    return add


def insert(name: str) -> Callable[..., None]:
    """A step that adds a product."""

    def function(context: Any) -> None:
        with context.connection.cursor() as cursor:
            cursor.execute("INSERT INTO shop_product (name) VALUES (%s)", [name])

    return function


def products(either: Any) -> list[str]:
    rows = either.rows("SELECT name FROM shop_product ORDER BY id")
    return [row["name"] for row in rows]


def of_kind_step(either: Any) -> list[tuple[str, str]]:
    return [
        (each["name"], each["outcome"])
        for each in either.steps()
        if each["kind"] == "step"
    ]


def force(**work: Any) -> Any:
    made = MigrateTask(lambda: run_migrate("default"), "test", **work)
    return Initializer(InitializationOptions(made, force=True)).run()


# When they are done


def test_once(either: Any, step: Any) -> None:
    """A step is done in the run, after the migrations, and not again."""
    step()
    outcome = initialize()
    assert outcome.applied == ("shop.0001_initial", "shop.0002_sale")
    [run] = either.runs()
    assert (run["done"], run["total"], run["progress"]) == (3, 3, 100)
    assert of_kind_step(either) == [("shop.seed", "done")]
    assert initialize().role == "none"
    force()
    assert products(either) == ["seed"]


def test_a_new_step_makes_a_new_build(either: Any, plain_shop: Any, step: Any) -> None:
    """What was ready is not, until the step is done; the old build stays ready."""
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


def test_before_anything_is_there(either: Any, step: Any) -> None:
    """On an empty database everything is pending, steps last."""
    step()
    assert get_status().pending == ("shop.0001_initial", "shop.0002_sale", "shop.seed")


def test_migrated_by_somebody_else(either: Any, plain_shop: Any, step: Any) -> None:
    """Where Django alone has migrated, nobody has done the steps."""
    run_migrate_by_django()
    step()
    assert get_status().pending == ("shop.seed",)
    initialize()
    assert products(either) == ["seed"]


def run_migrate_by_django() -> None:
    from django.core.management.commands.migrate import Command

    call_command(Command(), verbosity=0, interactive=False)


def test_versions(either: Any, step: Any) -> None:
    """A higher version is done once more; an old build is content with it."""
    step(insert("one"))
    initialize()
    step(insert("two"), version=2)
    assert not is_ready()
    initialize()
    assert products(either) == ["one", "two"]
    step(insert("one"))
    assert is_ready()
    force()
    assert products(either) == ["one", "two"]


def test_always(either: Any, step: Any) -> None:
    """With each run of a leader; a start that finds everything ready does not lead."""
    step(run="always")
    initialize()
    initialize()
    assert products(either) == ["seed"]
    force()
    assert products(either) == ["seed", "seed"]


def test_on_change(either: Any, step: Any) -> None:
    """When the fingerprint is another one than that of the last time."""
    step(insert("a"), run="on_change", fingerprint=lambda: "a")
    initialize()
    force()
    assert products(either) == ["a"]
    step(insert("b"), run="on_change", fingerprint=lambda: "b")
    assert not is_ready()
    initialize()
    assert products(either) == ["a", "b"]
    step(insert("a"), run="on_change", fingerprint=lambda: "a")
    assert is_ready()  # an old build beside the new one does not take it back
    force()
    assert products(either) == ["a", "b", "a"]


def test_a_fingerprint_that_fails(plain_shop: Any, step: Any) -> None:
    """It is told in one sentence."""

    def fail() -> str:
        raise OSError("no such file")

    step(run="on_change", fingerprint=fail)
    with pytest.raises(ConfigurationError, match=r"shop\.seed cannot be found out: OS"):
        initialize()


def test_in_their_order(either: Any, step: Any) -> None:
    """A step comes after those that it names, whatever the order of registration."""
    step(insert("last"), name="last", after=("first", "shop.second"))
    step(insert("second"), name="second", after=("first",))
    step(insert("first"), name="first")
    initialize()
    assert products(either) == ["first", "second", "last"]


def test_problems_are_told(plain_shop: Any, step: Any) -> None:
    """Steps that make no sense stop everybody, with the remedy."""
    step(after=("nothing",))
    with pytest.raises(ConfigurationError, match=r"after shop\.nothing, which does no"):
        initialize()


def test_routers(either: Any, step: Any, settings: Any) -> None:
    """A database that has none of the app's models has none of its steps."""

    class Nowhere:
        def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
            return False

    step()
    settings.DATABASE_ROUTERS = [Nowhere()]
    initialize()
    assert of_kind_step(either) == []
    assert is_ready()


def test_a_record_that_is_gone(either: Any, step: Any) -> None:
    """Who removes the record has the step done again, although the build was initialized."""
    step()
    initialize()
    either.rows("DELETE FROM django_safe_init_step")
    assert initialize().role == "leader"
    assert products(either) == ["seed", "seed"]


def test_what_is_kept(either: Any, step: Any, settings: Any) -> None:
    """The run in which a step was done last stays, however many come after it."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "HISTORY": 1}
    step()
    initialize()
    for _ in range(3):
        force()
    assert of_kind_step(either) == [("shop.seed", "done")]
    assert is_ready()
    assert products(either) == ["seed"]


# What belongs to them


def test_what_it_is_given(plain_shop: Any, step: Any, caplog: Any) -> None:
    """A step has the alias, the connection and a logger."""
    caplog.set_level(logging.INFO)
    seen = []

    def look(context: Any) -> None:
        context.logger.info("at work")
        seen.append(
            (context.alias, context.connection is connection._connections["default"])
        )

    step(look)
    initialize()
    assert seen == [("default", True)]
    assert ("django_safe_init.steps.shop.seed", 20, "at work") in caplog.record_tuples


def test_async(either: Any, step: Any) -> None:
    """An `async def` step works in the same transaction, with the async ORM."""

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
    assert products(either) == []
    initialize()
    assert products(either) == ["async"]


def test_migrate_does_none(either: Any, step: Any) -> None:
    """`migrate` is Django's command: what is left is the next `safe_migrate`'s."""
    step()
    call_command("migrate", verbosity=0)
    assert of_kind_step(either) == []
    assert either.newest_run()["outcome"] == "partial"
    assert get_status().pending == ("shop.seed",)
    initialize()
    assert products(either) == ["seed"]


def test_not_after_a_part_of_the_migrations(either: Any, step: Any) -> None:
    """Where another package's `migrate` does not do all, steps have to wait."""
    step()
    work = MigrateTask(run_migrate_to_the_first, "test")
    with pytest.raises(ValidationFailed, match=r"shop\.0002_sale, shop\.seed"):
        Initializer(InitializationOptions(work)).run()
    assert of_kind_step(either) == []


def run_migrate_to_the_first() -> None:
    call_command("migrate", "shop", "0001", verbosity=0)


def test_a_migrate_inside(either: Any, step: Any) -> None:
    """A `migrate` that a step calls is a part of the step, and no run of its own."""
    step(lambda context: call_command("migrate", verbosity=0))
    initialize()
    assert len(either.runs()) == 1


def test_in_the_plan(command_line: Any, plain_shop: Any, step: Any) -> None:
    """`--plan` lists them after the migrations."""
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


def test_a_step_that_raises(either: Any, step: Any) -> None:
    """The run fails with its name; what it did is undone, and it is done again."""

    def fail(context: Any) -> None:
        insert("half")(context)
        if wrong:
            raise ValueError(wrong.pop())

    wrong = ["no price"]
    step(fail)
    with pytest.raises(InitializationFailed, match=r"shop\.seed: ValueError: no price"):
        initialize()
    assert products(either) == []
    assert of_kind_step(either) == [("shop.seed", "failed")]
    assert either.newest_run()["outcome"] == "failed"
    assert get_status().error == "shop.seed: ValueError: no price"
    initialize()
    assert products(either) == ["half"]


def test_done_and_recorded_together(either: Any, step: Any, monkeypatch: Any) -> None:
    """Who cannot record a step has not done it."""

    def lose_the_row(context: Any) -> None:
        insert("seed")(context)
        with context.connection.cursor() as cursor:
            cursor.execute("UPDATE django_safe_init_step SET position = -position")

    step(lose_the_row)
    with pytest.raises(InitializationFailed, match="in which the step is to be recor"):
        initialize()
    assert products(either) == []


def test_a_hook_that_fails(either: Any, step: Any) -> None:
    """What was committed stays recorded, whatever `on_commit` does then."""

    def fail() -> None:
        raise ValueError("no broker")

    def seed_and_tell(context: Any) -> None:
        insert("seed")(context)
        transaction.on_commit(fail)

    step(seed_and_tell)
    with pytest.raises(InitializationFailed, match="no broker"):
        initialize()
    assert of_kind_step(either) == [("shop.seed", "done")]
    assert initialize().result == "ready"
    assert products(either) == ["seed"]


def test_without_any_migration(either: Any, step: Any, settings: Any) -> None:
    """Where no app has a migration Django makes no table for them; a step needs none."""
    settings.MIGRATION_MODULES = {each.label: None for each in apps.get_app_configs()}

    def make_table(context: Any) -> None:
        with context.connection.cursor() as cursor:
            cursor.execute("CREATE TABLE made (id int)")

    step(make_table)
    assert initialize().role == "leader"
    assert either.rows("SELECT * FROM made") == []
    assert is_ready()


def test_constraints(either: Any, step: Any) -> None:
    """A step that leaves a broken foreign key fails, and is undone."""

    def break_it(context: Any) -> None:
        with context.connection.cursor() as cursor:
            cursor.execute("INSERT INTO shop_sale (product_id) VALUES (99)")

    step(break_it)
    with pytest.raises(InitializationFailed, match=r"shop\.seed: Integrity") as caught:
        initialize()
    assert isinstance(caught.value.__cause__, IntegrityError)
    assert either.value("SELECT count(*) FROM shop_sale") == 0


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_step_that_ends_its_transaction(either: Any, step: Any, end: str) -> None:
    """It is not recorded as done, and the remedy is told."""

    def wrong(context: Any) -> None:
        insert("seed")(context)
        with context.connection.cursor() as cursor:
            cursor.execute(end)

    step(wrong)
    with pytest.raises(InitializationFailed, match=r"needs atomic ?= ?False"):
        initialize()
    assert of_kind_step(either) == [("shop.seed", "failed")]


def test_a_script_that_ends_its_transaction(
    django_database: Any, small_shop: Any, monkeypatch: Any
) -> None:
    """Also in the middle of several statements that are sent as one."""

    def wrong(context: Any) -> None:
        with context.connection.cursor() as cursor:
            cursor.execute(
                "SELECT 1; ROLLBACK; INSERT INTO shop_product (name) VALUES ('x')"
            )

    monkeypatch.setattr(registry, "_steps", [StepDefinition("shop", "seed", wrong)])
    monkeypatch.setattr(registry, "_is_complete", True)
    with pytest.raises(InitializationFailed, match="needs atomic=False"):
        initialize()
    assert of_kind_step(django_database) == [("shop.seed", "failed")]


# Without a transaction


def test_not_atomic(either: Any, step: Any) -> None:
    """Each statement is on its own."""

    def look(context: Any) -> None:
        seen.append(context.connection.in_atomic_block)
        insert("seed")(context)

    seen: list[bool] = []
    step(look, atomic=False)
    initialize()
    assert seen == [False]
    assert products(either) == ["seed"]
    assert [each["atomic"] for each in either.steps()][-1] in (False, 0)


def test_a_transaction_that_it_leaves_open(either: Any, step: Any) -> None:
    """Who leaves a transaction open is told so: what was done in it is lost."""

    def begin(context: Any) -> None:
        with context.connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("INSERT INTO shop_product (name) VALUES ('lost')")

    step(begin, atomic=False)
    with pytest.raises(InitializationFailed, match="has left a transaction open"):
        initialize()
    assert products(either) == []


def test_one_that_opens_transactions_of_its_own(either: Any, step: Any) -> None:
    """That is what it is there for; it may close the connection, too."""

    def work(context: Any) -> None:
        with transaction.atomic():
            insert("seed")(context)
        context.connection.close()

    step(work, atomic=False)
    initialize()
    assert products(either) == ["seed"]


@pytest.mark.parametrize("policy", ["report", "rerun"])
def test_interrupted(either: Any, step: Any, settings: Any, policy: str) -> None:
    """What a step has done that broke off is unknown: a person decides, or the policy."""

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
    assert products(either) == ["half", "whole"]
    assert is_ready()


def test_interrupted_and_done_again_anyway(either: Any, step: Any) -> None:
    """A step that is always done needs nobody's decision."""

    def fail(context: Any) -> None:
        raise KeyboardInterrupt

    step(fail, atomic=False, run="always")
    with pytest.raises(KeyboardInterrupt):
        initialize()
    step(insert("seed"), atomic=False, run="always")
    initialize()
    assert products(either) == ["seed"]


# Who may not read


def test_a_role_that_may_not_read_them(
    django_database: Any,
    small_shop: Any,
    monkeypatch: Any,
    new_role: Any,
    log_in_as: Any,
) -> None:
    """Where the record is kept from us, the migrations decide."""
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
