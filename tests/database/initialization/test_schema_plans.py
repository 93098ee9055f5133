"""The plans of schemas, and the SQL that is replayed in each of them."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from django.db import connection, connections
from django.db.backends.postgresql.schema import DatabaseSchemaEditor
from django.db.migrations import Migration, RenameModel
from django.db.migrations.exceptions import InconsistentMigrationHistory
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.state import ProjectState

from django_safe_init.initialization.schemas import plans as module
from django_safe_init.initialization.schemas.plans import (
    PlannedMigration,
    Planner,
    RecordedLoader,
    SchemaExecutor,
    recorded_names,
)
from django_safe_init.initialization.schemas.replayable import is_replayable
from tests.database.conftest import INITIAL, SALE, Shop
from tests.database.initialization import unusual_operations

FIRST, SECOND, THIRD = (
    ("shop", name) for name in ("0001_initial", "0002_next", "0003_last")
)
ADD_NOTE = "migrations.AddField('product', 'note', models.TextField(default='100% %s'))"
ADD_UNIQUE = "migrations.AlterField('product', 'name', models.TextField(default='', unique=True))"


@pytest.fixture
def shop(shop: Shop, django_database: Any) -> Shop:
    shop.write("0001_initial", INITIAL)
    return shop


def compiled(
    shop: Shop,
    *operations: str,
    atomic: bool = True,
    body: str = "",
    recorded: Any = (),
) -> PlannedMigration:
    """Write a second migration, and return it as planned for a schema with the first."""
    shop.write("0002_next", *operations, atomic=atomic)
    rewrite(shop, "0002_next", body)
    planner = Planner("default")
    plan = planner.plan("", {FIRST, *recorded})
    planner.compile(plan, connection)
    [planned] = plan.migrations
    assert planned.name == "shop.0002_next"
    assert planned.names == {SECOND}
    return planned


def rewrite(shop: Shop, name: str, body: str, *changes: tuple[str, str]) -> None:
    """Add lines to the class of a migration, and change its text."""
    file = shop.folder / f"{name}.py"
    unusual = (
        "from tests.database.initialization import unusual_operations as unusual\n"
    )
    text = f"{unusual}{file.read_text()}{body}"
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    sys.modules.pop(f"{shop.package}.{name}", None)


# What is replayed


@pytest.mark.parametrize(
    "operation",
    [
        ADD_NOTE,
        SALE,
        "migrations.RunSQL('UPDATE shop_product SET name = $$100%$$')",
        "migrations.RunSQL(['SELECT 1', ('UPDATE shop_product SET name = %s', ['%'])])",
        "migrations.RunSQL(migrations.RunSQL.noop)",
        "migrations.RunSQL('-- set things\\nUPDATE shop_product SET name = name')",
        "migrations.AlterModelOptions('product', {'ordering': ['name']})",
        f"migrations.SeparateDatabaseAndState([{ADD_NOTE}], [{ADD_NOTE}])",
        f"migrations.SeparateDatabaseAndState([], [{ADD_NOTE}])",
        "migrations.AddField('product', 'note', models.TextField(unusual.LAZY,"
        " default='', choices=[('x', unusual.LAZY)], help_text=unusual.LAZY))",
    ],
)
def test_replayed(shop: Shop, operation: str) -> None:
    """Operations of Django whose SQL does not depend on the schema are computed once."""
    planned = compiled(shop, operation)
    assert planned.statements is not None
    assert not planned.runs_python
    assert planned.rendered is None
    with connection.cursor() as cursor:
        create_first(cursor)
        for statement in planned.statements:
            cursor.execute(statement)


def create_first(cursor: Any) -> None:
    """Create the tables of the first migration from its replayed SQL."""
    planner = Planner("default")
    plan = planner.plan("", ())
    planner.compile(plan, connection)
    assert plan.migrations[0].statements is not None
    for statement in plan.migrations[0].statements:
        cursor.execute(statement)


# What runs for real


@pytest.mark.parametrize(
    "operation",
    [
        "migrations.RunPython(migrations.RunPython.noop)",
        f"migrations.SeparateDatabaseAndState([migrations.RunPython(print)], [{ADD_NOTE}])",
        "unusual.SQLAndMore('SELECT 1')",
        "unusual.Computed()",
    ],
)
def test_python(shop: Shop, operation: str) -> None:
    """A migration with code that is not Django's runs in each schema, on fresh models."""
    planned = compiled(shop, ADD_NOTE, operation)
    assert planned.statements is None
    assert planned.runs_python
    assert planned.rendered is not None


#: The places for an expression or a field, with `{own}` for one of the project's.
EXPRESSIONS = [
    "migrations.AddField('product', 'note', models.TextField(db_default={own}(Value('X'))))",
    "migrations.AddField('product', 'note', models.GeneratedField("
    "expression={own}('name'), output_field=models.TextField(), db_persist=True))",
    "migrations.AddIndex('product', models.Index({own}('name'), name='an_index'))",
    "migrations.AddIndex('product', models.Index(fields=['name'], name='an_index',"
    " condition=models.Q(name={own}(Value('X')))))",
    "migrations.AddConstraint('product', models.UniqueConstraint({own}('name'), name='a_name'))",
    "migrations.CreateModel('Sale', [('id', models.BigAutoField(primary_key=True)),"
    " ('name', models.TextField())], {{'constraints': [models.CheckConstraint("
    "condition=models.Q(name={own}('name')), name='a_name')]}})",
    "migrations.AddConstraint('product', models.CheckConstraint("
    "condition=models.Q(name={own}('name')), name='a_name', violation_error_message=unusual.LAZY))",
]
IMPORTS = """
from django.contrib.postgres.fields import ArrayField
from django.db.models import Value
from django.db.models.functions import Lower
"""


@pytest.mark.parametrize("operation", EXPRESSIONS)
def test_an_expression_of_django(shop: Shop, operation: str) -> None:
    """Django's own expressions give the same SQL in each schema."""
    shop.write("0002_next", operation.format(own="Lower"))
    planned = planned_again(shop)
    assert planned.statements is not None


@pytest.mark.parametrize(
    "operation",
    [
        *(each.format(own="unusual.Own") for each in EXPRESSIONS),
        "migrations.AddConstraint('product', models.CheckConstraint("
        "condition=unusual.own_check('name'), name='a_name'))",
        "migrations.AddField('product', 'note', unusual.OwnField(default=''))",
        "migrations.AddField('product', 'note', ArrayField(unusual.OwnField(), default=list))",
        "migrations.AddField('product', 'note', models.TextField("
        "default='', db_comment=unusual.LAZY))",
        *(
            "migrations.AddField('product', 'note', models.TextField("
            f"default='', db_collation=unusual.LAZY_COLLATIONS[{kind!r}]))"
            for kind in unusual_operations.LAZY_COLLATIONS
        ),
    ],
)
def test_an_expression_of_the_project(shop: Shop, operation: str) -> None:
    """Python of the project inside a field, an index or a constraint is asked in each schema."""
    shop.write("0002_next", operation)
    planned = planned_again(shop)
    assert planned.statements is None
    assert not planned.runs_python


@pytest.mark.parametrize(
    ("operation", "is_replayed"),
    [
        (
            "migrations.AddConstraint('product', models.CheckConstraint("
            "condition=~models.Q(name__same='x'), name='a_name'))",
            False,
        ),
        (
            "migrations.AddIndex('product', models.Index(Lower('name'), name='i'))",
            False,
        ),
        (
            "migrations.AddIndex('product', models.Index(fields=['name'], name='i'))",
            True,
        ),
        (ADD_NOTE, True),
    ],
)
def test_a_lookup_of_the_project(shop: Shop, operation: str, is_replayed: bool) -> None:
    """With a lookup of the project, expressions are asked in each schema."""
    shop.write("0002_next", operation)
    with unusual_operations.own_lookup():
        planned = planned_again(shop)
    assert (planned.statements is not None) is is_replayed


OWN_KEY = "migrations.CreateModel('Sort', [('id', unusual.OwnField(primary_key=True))])"
CHAIN = (
    "migrations.CreateModel('Sale', [('sort', models.OneToOneField('shop.Sort',"
    " models.CASCADE, primary_key=True))])"
)


@pytest.mark.parametrize(
    ("operation", "is_replayed"),
    [
        ("AddField('product', 'sort', models.ForeignKey('Sort', models.CASCADE))", False),
        ("AddField('product', 'sort', models.ManyToManyField('shop.Sort'))", False),
        ("AddField('product', 'sale', models.ForeignKey('Sale', models.CASCADE))", False),
        ("AddField('sort', 'products', models.ManyToManyField('shop.Product'))", False),
        ("AddField('sort', 'next', models.ForeignKey('self', models.CASCADE))", False),
        ("AddField('product', 'other', models.ManyToManyField('self'))", True),
        ("AddField('sort', 'product', models.ForeignKey('Product', models.CASCADE))", True),
        ("AlterField('sort', 'id', models.CharField(max_length=9, primary_key=True))", False),
        ("RenameField('sort', 'id', 'key')", False),
    ],
)  # fmt: skip
def test_a_key_of_the_project(shop: Shop, operation: str, is_replayed: bool) -> None:
    """A relation has the type of the key to which it is, and a change reads the old field."""
    shop.write("0002_keys", OWN_KEY, CHAIN)
    rewrite(shop, "0002_keys", "")
    shop.write("0003_next", f"migrations.{operation}")
    planner = Planner("default")
    plan = planner.plan("", {FIRST, ("shop", "0002_keys")})
    planner.compile(plan, connection)
    assert (plan.migrations[0].statements is not None) is is_replayed


def planned_again(shop: Shop) -> PlannedMigration:
    """Return the second migration as planned, with more names to use in it."""
    rewrite(shop, "0002_next", "", ("\nclass Migration", f"{IMPORTS}\nclass Migration"))
    planner = Planner("default")
    plan = planner.plan("", {FIRST})
    planner.compile(plan, connection)
    return plan.migrations[0]


def test_a_custom_apply(shop: Shop) -> None:
    """A migration class with its own `apply` runs in each schema."""
    body = "\n    def apply(self, *args):\n        return super().apply(*args)\n"
    planned = compiled(shop, ADD_NOTE, body=body)
    assert planned.statements is None
    assert planned.runs_python


@pytest.mark.parametrize(
    "text",
    [
        "SET search_path = other",
        "SELECT 1; reset role",
        "-- first\nBEGIN",
        "/* one\ntwo */ /* three */ END",
        "COMMIT",
        "SAVEPOINT a",
        "LISTEN news",
        "PREPARE x AS SELECT 1",
        "COPY shop_product FROM STDIN",
        "VACUUM shop_product",
        "SELECT set_config('a.b', 'c', false)",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_xact_lock(1)",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path FROM CURRENT AS $$SELECT 1$$",
    ],
)
@pytest.mark.parametrize("form", ["{0!r}", "['SELECT 1', {0!r}]", "[({0!r}, None)]"])
def test_sql_about_the_session(shop: Shop, text: str, form: str) -> None:
    """SQL whose effect lasts after it, or ends the transaction, runs in each schema."""
    planned = compiled(shop, f"migrations.RunSQL({form.format(text)})")
    assert planned.statements is None
    assert not planned.runs_python
    nested = f"migrations.SeparateDatabaseAndState([migrations.RunSQL({text!r})])"
    migration = Migration("0003_last", "shop")
    migration.operations = [operation_of(shop, nested)]
    assert not is_replayable(migration, ProjectState(), connection)


def operation_of(shop: Shop, text: str) -> Any:
    """Return the operation that the text writes."""
    shop.remove("0002_next")
    return compiled(shop, text).migration.operations[0]


@pytest.mark.parametrize("operation", [
    "migrations.AlterField('product', 'name', models.CharField(max_length=9))",
    "migrations.AlterField('product', 'name', models.TextField(default=''))",
])  # fmt: skip
def test_a_migration_that_reads_constraints(shop: Shop, operation: str) -> None:
    """If Django reads the names of constraints, the SQL depends on the schema."""
    shop.write("0002_unique", ADD_UNIQUE)
    shop.write("0003_next", operation)
    planner = Planner("default")
    plan = planner.plan("", {FIRST, ("shop", "0002_unique")})
    planner.compile(plan, connection)
    [planned] = plan.migrations
    assert planned.statements is None
    assert not planned.runs_python
    assert planned.rendered is not None
    assert "apps" in vars(planned.rendered)


def test_a_migration_without_a_transaction(shop: Shop) -> None:
    """A non-atomic migration runs in each schema."""
    assert compiled(shop, ADD_NOTE, atomic=False).statements is None


def test_a_schema_editor_of_a_package(shop: Shop, monkeypatch: Any) -> None:
    """With a schema editor that is not Django's each migration runs for real."""

    class Editor(DatabaseSchemaEditor):
        """An editor of a package."""

    monkeypatch.setattr(type(connections["default"]), "SchemaEditorClass", Editor)
    assert compiled(shop, ADD_NOTE).statements is None


def test_the_search_path_of_a_package() -> None:
    """The statement with which a package activates a schema is executed, and no other."""
    executed = []
    module._refuse(lambda *args: executed.append(args), "SET search_path = acme", None)
    assert executed == [("SET search_path = acme", None)]
    with pytest.raises(module._Reads):
        module._refuse(lambda *args: executed.append(args), "SELECT 1", None)


# Plans


def test_one_plan_for_the_same_records(shop: Shop, monkeypatch: Any) -> None:
    """Schemas of one kind with the same records share a plan, whose SQL is computed once."""
    planner = Planner("default")
    plan = planner.plan("", {FIRST})
    assert planner.plan("", [FIRST]) is plan
    assert planner.plan("large", {FIRST}) is not plan
    assert planner.plan("", ()) is not plan
    assert plan.migrations == []
    planner.compile(plan, connection)
    assert plan.is_compiled
    first = planner.plan("", ())
    planner.compile(first, connection)
    statements = first.migrations[0].statements
    planner.compile(first, connection)
    assert first.migrations[0].statements is statements


def test_the_state_after_earlier_migrations(shop: Shop) -> None:
    """A plan of several migrations has the state before each of them."""
    shop.write("0002_next", ADD_NOTE)
    shop.write("0003_last", "migrations.RunPython(print)")
    planner = Planner("default")
    plan = planner.plan("", ())
    planner.compile(plan, connection)
    fields = [
        set(each.state.models["shop", "product"].fields) if each.state.models else set()
        for each in plan.migrations
    ]
    assert fields == [set(), {"id", "name"}, {"id", "name", "note"}]
    rendered = plan.migrations[2].rendered
    assert rendered is not None
    assert rendered.apps.get_model("shop", "Product")._meta.get_field("note")
    assert not plan.renames_models


# Records


def test_the_loader(shop: Shop) -> None:
    """The loader knows the given records, also after it has loaded again."""
    loader = RecordedLoader({FIRST})
    loader.build_graph()
    assert set(loader.applied_migrations) == {FIRST}


def test_the_executor(shop: Shop) -> None:
    """The executor neither loads the migrations nor creates the table of records."""
    loader = RecordedLoader(())
    executor = SchemaExecutor(connection, loader)
    executor.recorder.ensure_schema()
    assert executor.loader is loader
    assert "django_migrations" not in connection.introspection.table_names()


def test_an_inconsistent_history(shop: Shop) -> None:
    """A record without the record of a dependency is refused, as by Django."""
    shop.write("0002_next", ADD_NOTE)
    unknown = ("shop", "0099_of_another_build")
    with pytest.raises(
        InconsistentMigrationHistory, match=r"shop\.0002_next is applied"
    ):
        Planner("default").plan("", {SECOND, unknown})
    plan = Planner("default").plan("", {FIRST, SECOND, unknown})
    assert plan.migrations == []


@pytest.fixture
def squash(shop: Shop) -> tuple[str, str]:
    """A squash of the first two migrations, and a third one after it."""
    shop.write("0002_next", ADD_NOTE)
    name = "0001_squashed"
    shop.write(name, INITIAL, ADD_NOTE)
    rewrite(
        shop,
        name,
        f"    replaces = {[FIRST, SECOND]!r}\n",
        ("initial = False", "initial = True"),
        (f"dependencies = {[SECOND]!r}", "dependencies = []"),
    )
    shop.write("0003_last", "migrations.RunPython(print)")
    return ("shop", name)


def test_a_squash_of_nothing(squash: tuple[str, str]) -> None:
    """A new schema runs the squashed migration, and records it like what it replaces."""
    plan = Planner("default").plan("", ())
    first, last = (each.names for each in plan.migrations)
    assert first - {squash} == {FIRST, SECOND}
    assert last == {THIRD}
    assert first | plan.squashed == {
        FIRST,
        SECOND,
        squash,
    }  # Django 6.1 records it at once


def test_a_squash_of_all(squash: tuple[str, str]) -> None:
    """If all replaced migrations are recorded, only the squashed migration is recorded."""
    plan = Planner("default").plan("", {FIRST, SECOND})
    assert [each.name for each in plan.migrations] == ["shop.0003_last"]
    assert plan.squashed == {squash}
    plan = Planner("default").plan("", {FIRST, SECOND, THIRD})
    assert plan.migrations == []
    assert plan.squashed == {squash}
    plan = Planner("default").plan("", {FIRST, SECOND, squash})
    assert plan.squashed == set()


def test_a_squash_of_some(squash: tuple[str, str]) -> None:
    """If some are recorded, the others run, and the squashed migration is recorded then."""
    plan = Planner("default").plan("", {FIRST})
    assert [each.names for each in plan.migrations] == [{SECOND}, {THIRD}]
    assert plan.squashed == {squash}


def test_an_inconsistent_history_of_a_squash(squash: tuple[str, str]) -> None:
    """A record after a squash needs the record of the squash, or of all that it replaces."""
    with pytest.raises(InconsistentMigrationHistory):
        Planner("default").plan("", {FIRST, THIRD})


def test_the_names_in_other_versions_of_django(
    shop: Shop, monkeypatch: Any, squash: tuple[str, str]
) -> None:
    """Django 6.1 records by names, and earlier versions record a migration."""
    loader = RecordedLoader(())
    migration = loader.graph.nodes[squash]
    executor = SchemaExecutor(None, loader)

    def by_migration(self: Any, migration: Migration) -> None:
        for app, name in [(migration.app_label, migration.name), *migration.replaces]:
            self.recorder.record_applied(app, name)

    def by_name(self: Any, app_label: str, name: str, forward: bool = True) -> None:
        by_migration(self, self.loader.graph.nodes[app_label, name])

    for record in (by_migration, by_name):
        monkeypatch.setattr(MigrationExecutor, "record_migration", record)
        assert recorded_names(executor, migration) == {squash, FIRST, SECOND}


# Content types


def test_a_renamed_model(shop: Shop, settings: Any) -> None:
    """The receiver of contenttypes adds its operation to the migration, once."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "django.contrib.contenttypes"]
    shop.write("0002_next", ADD_NOTE)
    shop.write("0003_last", "migrations.RenameModel('Product', 'Article')")
    planner = Planner("default")
    types = {
        ("contenttypes", "0001_initial"),
        ("contenttypes", "0002_remove_content_type_name"),
    }
    plan = planner.plan("", {FIRST, SECOND, *types})
    [planned] = plan.migrations
    assert plan.renames_models
    planner.compile(plan, connection)
    planner.compile(plan, connection)
    assert [type(each).__name__ for each in planned.migration.operations] == [
        "RenameModel",
        "RenameContentType",
    ]
    assert isinstance(planned.migration.operations[0], RenameModel)
    assert "apps" not in vars(planned.state)
    assert planned.statements is None
    plan = planner.plan("", {FIRST, THIRD, SECOND, *types})
    assert not plan.renames_models


def test_no_renamed_model(shop: Shop, settings: Any) -> None:
    """A plan that renames no model is left as it is."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "django.contrib.contenttypes"]
    plan = Planner("default").plan("", ())
    assert not plan.renames_models
    assert len(plan.migrations) == 3


def test_few_plans_are_kept(shop: Shop) -> None:
    """A planner keeps the plans that were used last."""
    planner = Planner("default")
    plans = [planner.plan(str(kind), ()) for kind in range(module._MAX_PLANS)]
    assert planner.plan("0", ()) is plans[0]
    planner.plan("another", ())
    assert planner.plan("0", ()) is plans[0]
    assert planner.plan("1", ()) is not plans[1]
