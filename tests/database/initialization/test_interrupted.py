"""Interrupted non-atomic migrations: the leader reruns, completes or reports them."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db.migrations.exceptions import IrreversibleError

from django_safe_init import (
    ConfigurationError,
    InitializationFailed,
    UnfinishedMigration,
    get_status,
    initialize,
)
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from tests.database.conftest import INDEX, INITIAL

INDEXES = "SELECT relname FROM pg_class WHERE relkind = 'i' AND relname LIKE 'product_%' ORDER BY 1"


def insert_interrupted(database, name: str, *, backwards=False, before=()) -> None:
    """Insert the step of a leader that died in this non-atomic migration."""
    database.rows(
        "INSERT INTO django_safe_init_step (run_id, position, kind, name, backwards,"
        " atomic, started_at, detail) VALUES"
        " (1, 1, 'migration', %s, %s, false, now(), %s::jsonb)",
        name,
        backwards,
        '{"indexes_before": [' + ",".join(f'"{each}"' for each in before) + "]}",
    )


def indexes(database) -> list[str]:
    return [row["relname"] for row in database.rows(INDEXES)]


@pytest.fixture
def index_shop(django_database, shop):
    """Return `shop` with its table; its second migration adds an index concurrently."""
    shop.write("0001_initial", INITIAL)
    initialize()
    shop.write("0002_index", INDEX, atomic=False)
    return shop


def rerun(*names: str):
    task = MigrateTask(lambda: run_migrate("default"), "test", rerun=names)
    return Initializer(InitializationOptions(task, force=True)).run()


def test_a_concurrent_index(django_database, index_shop) -> None:
    """The step of a migration that is not one transaction tells that it has a journal."""
    initialize()
    assert indexes(django_database) == ["product_name"]
    step = django_database.steps()[-1]
    assert (step["atomic"], step["outcome"]) == (False, "done")
    assert step["detail"] == {"journal": True}


@pytest.mark.parametrize("policy", ["rerun", "report"])
def test_a_leftover_index_is_dropped(
    django_database, index_shop, settings, policy
) -> None:
    """The index of an interrupted build is dropped and built again, whatever the policy."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "UNFINISHED": policy}
    insert_interrupted(django_database, "shop.0002_index")
    django_database.rows("CREATE INDEX product_name ON shop_product (id)")
    assert initialize().applied == ("shop.0002_index",)
    assert "(name)" in django_database.value(
        "SELECT indexdef FROM pg_indexes WHERE indexname = 'product_name'"
    )


def test_an_older_index_is_never_dropped(django_database, index_shop) -> None:
    """An index with this name that existed before the first attempt stays, and the run fails."""
    django_database.rows("CREATE INDEX product_name ON shop_product (id)")
    for _ in range(2):
        with pytest.raises(InitializationFailed, match="already exists"):
            initialize()
        assert "(id)" in django_database.value(
            "SELECT indexdef FROM pg_indexes WHERE indexname = 'product_name'"
        )


def test_a_step_without_detail(django_database, index_shop) -> None:
    """An interrupted step without detail, from an older version of the package, is accepted."""
    insert_interrupted(django_database, "shop.0002_index")
    django_database.rows("UPDATE django_safe_init_step SET detail = NULL")
    assert initialize().applied == ("shop.0002_index",)


@pytest.fixture
def other_shop(django_database, shop):
    """Return `shop` whose second, non-atomic migration was interrupted."""
    shop.write("0001_initial", INITIAL)
    initialize()
    shop.calls = []
    shop.run("0002_other", shop.calls.append, atomic=False)
    insert_interrupted(django_database, "shop.0002_other")
    return shop


def test_rerun(django_database, other_shop, caplog) -> None:
    """UNFINISHED = "rerun" applies the migration again and logs a warning."""
    assert initialize().applied == ("shop.0002_other",)
    assert len(other_shop.calls) == 1
    assert "shop.0002_other is not atomic and was interrupted: it runs again." in (
        caplog.messages
    )


def test_report(django_database, other_shop, settings) -> None:
    """UNFINISHED = "report" stops the leader; the error names two remedies, and `--rerun` works."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "UNFINISHED": "report"}
    with pytest.raises(UnfinishedMigration) as caught:
        initialize()
    assert other_shop.calls == []
    assert caught.value.failed_migration == "shop.0002_other"
    text = str(caught.value)
    commands = [
        "    python manage.py safe_migrate --rerun shop.0002_other",
        "    python manage.py migrate --fake shop 0002_other",
    ]
    assert text.splitlines()[1:] == commands
    assert django_database.newest_run()["error"] == text
    status = get_status()
    assert (status.error, status.message) == (text, text)
    assert rerun("shop.0002_other").applied == ("shop.0002_other",)
    assert len(other_shop.calls) == 1
    initialize()


def test_report_and_fake(django_database, other_shop, settings) -> None:
    """With UNFINISHED = "report", faking the migration resolves it without running it."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "UNFINISHED": "report"}
    call_command("migrate", "shop", "0002_other", fake=True, verbosity=0)
    assert other_shop.calls == []
    assert initialize().result == "ready"


def test_rerun_of_a_finished_migration(django_database, other_shop) -> None:
    """`--rerun` of a finished migration is refused, and the error lists the unfinished ones."""
    with pytest.raises(ConfigurationError) as caught:
        rerun("shop.0001_initial")
    assert str(caught.value) == (
        "--rerun shop.0001_initial: that is not unfinished. "
        "Unfinished: shop.0002_other."
    )


def test_rerun_without_unfinished_migrations(django_database, small_shop) -> None:
    """If no migration is unfinished, the error of `--rerun` says so."""
    with pytest.raises(ConfigurationError, match=r"Unfinished: none is\.$"):
        rerun("shop.0001_initial")


def test_a_failed_non_atomic_migration(django_database, shop) -> None:
    """A non-atomic migration that failed counts as unfinished."""
    shop.write("0001_initial", INITIAL)
    fails = [True]

    def work(connection) -> None:
        if fails:
            raise ValueError(fails.pop())

    shop.run("0002_work", work, atomic=False)
    with pytest.raises(InitializationFailed):
        initialize()
    _, second = django_database.steps()
    assert (second["finished_at"], second["outcome"]) == (None, None)
    assert rerun("shop.0002_work").applied == ("shop.0002_work",)
    with pytest.raises(ConfigurationError):
        rerun("shop.0002_work")


# Reversals


def test_an_interrupted_reversal_of_an_index(
    django_database, index_shop, caplog
) -> None:
    """The leader completes an interrupted reversal before it applies the migration again."""
    initialize()
    insert_interrupted(
        django_database, "shop.0002_index", backwards=True, before=["product_name"]
    )
    django_database.rows("DROP INDEX product_name")
    index_shop.write("0003_more")
    outcome = initialize()
    assert (
        "shop.0002_index was being reversed: that is completed now." in caplog.messages
    )
    assert outcome.applied == ("shop.0002_index", "shop.0003_more")
    assert indexes(django_database) == ["product_name"]
    assert len(django_database.applied_once()) == 3


def test_a_reversal_that_changed_nothing(django_database, index_shop) -> None:
    """An interrupted reversal that cannot have changed anything is ignored."""
    initialize()
    insert_interrupted(
        django_database, "shop.0002_index", backwards=True, before=["product_name"]
    )
    index_shop.write("0003_more")
    assert initialize().applied == ("shop.0003_more",)


def test_a_leftover_index_of_a_reversal(django_database, index_shop, caplog) -> None:
    """The leader drops an invalid index that an interrupted reversal of a removal left."""
    initialize()
    index_shop.write(
        "0003_remove",
        "RemoveIndexConcurrently('product', 'product_name')",
        atomic=False,
    )
    initialize()
    insert_interrupted(django_database, "shop.0003_remove", backwards=True)
    django_database.rows("CREATE INDEX product_name ON shop_product (name)")
    django_database.rows(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'product_name'::regclass"
    )
    index_shop.write("0004_more")
    assert initialize().applied == ("shop.0004_more",)
    assert indexes(django_database) == []
    assert any("Dropping the index product_name" in each for each in caplog.messages)


def initialize_irreversible(shop) -> None:
    """Apply a non-atomic migration that Django cannot reverse."""
    shop.write("0001_initial", INITIAL)
    shop.write("0002_for_good", "migrations.RunSQL('SELECT 1')", atomic=False)
    initialize()


def test_an_irreversible_migration(django_database, shop) -> None:
    """Django refuses the reversal before any change, so no step stays unfinished."""
    initialize_irreversible(shop)
    with pytest.raises(IrreversibleError, match="is not reversible"):
        call_command("migrate", "shop", "0001", verbosity=0)
    assert all(each["outcome"] for each in django_database.steps())
    shop.write("0003_more")
    assert initialize().applied == ("shop.0003_more",)


def test_an_unfinished_irreversible_reversal(django_database, shop) -> None:
    """An unfinished reversal of an irreversible migration, from an older version, is ignored."""
    initialize_irreversible(shop)
    insert_interrupted(django_database, "shop.0002_for_good", backwards=True)
    shop.write("0003_more")
    assert initialize().applied == ("shop.0003_more",)


def test_an_interrupted_reversal_with_custom_code(django_database, other_shop) -> None:
    """An interrupted reversal with custom code runs again."""
    initialize()
    reversals = []
    other_shop.callbacks["0002_other back"] = reversals.append
    insert_interrupted(django_database, "shop.0002_other", backwards=True)
    other_shop.write("0003_more")
    assert initialize().applied == ("shop.0002_other", "shop.0003_more")
    assert len(reversals) == 1
    assert len(other_shop.calls) == 2


def test_a_reversal_of_an_unknown_migration(django_database, index_shop) -> None:
    """An interrupted reversal is ignored if its migration is unknown or not applied."""
    initialize()
    insert_interrupted(django_database, "shop.0009_gone", backwards=True)
    insert_interrupted(django_database, "shop.0002_index", backwards=True)
    django_database.rows("DELETE FROM django_migrations WHERE name = '0002_index'")
    django_database.rows("DROP INDEX product_name")
    assert initialize().applied == ("shop.0002_index",)


@pytest.mark.parametrize("depends", [True, False])
def test_report_of_a_reversal(django_database, shop, settings, depends) -> None:
    """With UNFINISHED = "report", the error names two remedies of a reversal, and both work."""
    if depends:
        shop.write("0001_initial", INITIAL)
    reversals: list[object] = []
    name = "0002_other" if depends else "0001_other"
    shop.run(name, lambda connection: None, reversals.append, atomic=False)
    initialize()
    insert_interrupted(django_database, f"shop.{name}", backwards=True)
    settings.SAFE_INIT = {**settings.SAFE_INIT, "UNFINISHED": "report"}
    shop.write("0009_more")
    with pytest.raises(UnfinishedMigration) as caught:
        initialize()
    before = "0001_initial" if depends else "zero"
    text = str(caught.value)
    assert "was interrupted while it was reversed" in text
    assert "either reverse and apply it (the first command), or record it as" in text
    assert text.splitlines()[1:] == [
        f"    python manage.py safe_migrate --rerun shop.{name}",
        f"    python manage.py migrate --fake shop {before}",
    ]
    assert reversals == []
    if depends:
        assert rerun(f"shop.{name}").applied == (f"shop.{name}", "shop.0009_more")
        assert len(reversals) == 1
    else:
        call_command("migrate", "shop", before, fake=True, verbosity=0)
        assert initialize().applied == (f"shop.{name}", "shop.0009_more")
        assert reversals == []
