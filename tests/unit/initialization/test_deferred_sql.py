"""Deferred SQL is stored as data, and is the same SQL afterwards, also under new names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.apps.registry import Apps
from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.indexes import GinIndex, OpClass
from django.db import connections, models
from django.db.backends.ddl_references import Columns, IndexName, Statement, Table
from django.db.models.functions import Lower

from django_safe_init.initialization.deferred_sql import (
    UnknownReference,
    dump,
    load,
)

ENGINES = ["default", "sqlite"]


def editor_of(engine: str) -> Any:
    """Return an editor that collects its SQL, on a connection that is not open."""
    wrapper = connections.create_connection("default")
    if engine == "sqlite":
        from django.db.backends.sqlite3.base import DatabaseWrapper

        settings = {**wrapper.settings_dict, "NAME": ":memory:"}
        wrapper = DatabaseWrapper(settings, "default")
    made = wrapper.SchemaEditorClass(wrapper, collect_sql=True, atomic=False)
    made.deferred_sql = []
    return made


def model(title: str, /, *indexes: Any, constraints: Any = (), **fields: Any) -> Any:
    options = {"app_label": "shop", "apps": _apps, "indexes": indexes}
    meta = type("Meta", (), {**options, "constraints": list(constraints)})
    return type(title, (models.Model,), {"Meta": meta, "__module__": "shop", **fields})


_apps = Apps()
Brand = model("Brand", name=models.CharField(max_length=9, unique=True))
Item = model(
    "Item",
    models.Index(fields=["-code", "price"], name="two"),
    models.Index(Lower("code").desc(), "price", name="low"),
    models.Index(fields=["code"], condition=models.Q(price=1), name="part"),
    models.Index(fields=["code"], include=["price"], name="covers"),
    GinIndex(OpClass(Lower("code"), "gin_trgm_ops"), name="gin"),
    models.Index(fields=["code"], opclasses=["varchar_pattern_ops"], name="class"),
    constraints=[
        models.UniqueConstraint(fields=["code"], name="uniq", include=["price"]),
        models.UniqueConstraint(Lower("code"), name="lower"),
        ExclusionConstraint(name="no", expressions=[("code", "=")]),
        models.CheckConstraint(condition=models.Q(price__gt=0), name="positive"),
    ],
    code=models.CharField(max_length=9, db_index=True),
    price=models.IntegerField(null=True),
    brand=models.ForeignKey(Brand, models.CASCADE),
)


def items(editor: Any) -> list[Any]:
    """Return the deferred SQL of the models, and what code of a project may add."""
    for each in (Brand, Item):
        editor.create_model(each)
    extra = [
        each.create_sql(Item, editor)
        for each in Item._meta.constraints
        if editor.connection.vendor == "postgresql"
    ]
    names = [
        editor._create_unique_sql(Item, [Item._meta.get_field("price")]),
        editor._create_index_sql(Item, fields=[Item._meta.get_field("price")]),
    ]
    return [*editor.deferred_sql, *extra, *names, "SELECT 1"]


def change(item: Any) -> None:
    """Rename what the item refers to, as later operations do."""
    if isinstance(item, Statement):
        item.rename_table_references("shop_item", "goods")
        item.rename_table_references("shop_brand", "makers")
        item.rename_column_references("goods", "code", "sign")
        item.rename_column_references("goods", "brand_id", "maker_id")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_sql(engine) -> None:
    """Each item is the same, before and after a rename, also after it is stored again."""
    editor = editor_of(engine)
    found = items(editor)
    assert len(found) > 10
    for item in found:
        if item is None:
            continue
        twice = json.loads(json.dumps(dump(item, editor)))
        again = load(json.loads(json.dumps(dump(load(twice, editor), editor))), editor)
        change(item)
        change(again)
        assert str(again) == str(item)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_references(engine) -> None:
    """A restored item is found, and removed, like the original one."""
    editor = editor_of(engine)
    for item in items(editor):
        if not isinstance(item, Statement):
            continue
        restored = load(dump(item, editor), editor)
        for table in ("shop_item", "shop_brand", "other"):
            assert restored.references_table(table) == item.references_table(table)
            for column in ("code", "brand_id", "id", "other"):
                expected = item.references_column(table, column)
                assert restored.references_column(table, column) == expected


def test_a_name_that_was_used() -> None:
    """A name that Django has made once stays, as in Django."""
    editor = editor_of("default")
    field = Item._meta.get_field("price")
    original = editor._create_index_sql(Item, fields=[field])
    restored = load(dump(original, editor), editor)
    for item in (original, restored):
        str(item)
        change(item)
    assert str(restored) == str(original)
    assert "shop_item_price" in str(restored)
    again = load(dump(restored, editor), editor)
    assert str(again) == str(restored)


def test_a_rename_leaves_the_stored_form() -> None:
    """The stored form of a restored item shows which later changes have to be stored."""
    editor = editor_of("default")
    for item in filter(None, items(editor)):
        stored = dump(item, editor)
        restored = load(stored, editor)
        change(restored)
        assert stored == dump(item, editor)
        if isinstance(item, Statement):
            assert dump(restored, editor) != stored


class OtherTable(Table):
    """A reference that a package has added."""


class OtherColumns(Columns):
    """A reference with lists and a method of the editor."""


class OtherName(IndexName):
    """A reference with a function that makes a name."""


class OtherStatement(Statement):
    """A statement that a package has added."""


def test_references_of_a_package() -> None:
    """References that a package derives from Django's follow renames."""
    editor = editor_of("default")
    field = Item._meta.get_field("code")
    inner = editor._create_index_sql(Item, fields=[field]).parts["name"]
    name = OtherName(inner.table, inner.columns, inner.suffix, inner.create_index_name)
    columns = OtherColumns(
        "shop_item", ["code"], editor.connection.ops.quote_name, ("DESC",)
    )
    item = OtherStatement(
        "%(name)s ON %(table)s (%(columns)s)",
        name=name,
        table=OtherTable("shop_item", editor.quote_name),
        columns=columns,
    )
    restored = load(json.loads(json.dumps(dump(item, editor))), editor)
    assert type(restored) is OtherStatement
    assert str(restored) == str(item)
    stored = dump(restored, editor)
    change(item)
    change(restored)
    assert str(restored) == str(item)
    assert "goods" in str(restored)
    assert dump(restored, editor) != stored


def test_a_method_that_makes_a_name() -> None:
    """A package may pass the editor's own method that makes the name of an index."""
    editor = editor_of("default")
    name = IndexName("shop_item", ["code"], "_x", editor._create_index_name)
    item = Statement("%(name)s", name=name)
    restored = load(json.loads(json.dumps(dump(item, editor))), editor)
    change(item)
    change(restored)
    assert str(restored) == str(item)
    name = IndexName("shop_item", ["code"], "_x", lambda *names: "x")
    with pytest.raises(UnknownReference):
        dump(Statement("%(name)s", name=name), editor)


def test_unknown_references() -> None:
    """Objects that Django does not define are refused, instead of stored as text."""
    editor = editor_of("default")

    class Hidden(Table):
        """No module has it under its name."""

    methods = (
        OtherTable("a", str),
        OtherTable("a", _apps.get_models),
        OtherTable("a", Item.save),
    )
    strange = OtherTable("a", editor_of("default").quote_name)
    for part in (*methods, strange, Hidden("a", editor.quote_name), object()):
        with pytest.raises(UnknownReference):
            dump(Statement("%(part)s", part=part), editor)
    with pytest.raises(UnknownReference):
        dump(Statement(object(), part=1), editor)
    for name in ("system", "PathLike"):
        with pytest.raises(UnknownReference):
            load(["Object", "os", name, None, {}], editor)
    item = editor._create_index_sql(Item, fields=[Item._meta.get_field("price")])
    item.parts["name"].create_index_name = lambda *args: "a"
    with pytest.raises(UnknownReference):
        dump(item, editor)


def test_an_editor_of_a_package() -> None:
    """The SQL of an editor of a package is restored with its own objects."""
    base = pytest.importorskip("django_zero_downtime_migrations.backends.postgres.base")
    wrapper = base.DatabaseWrapper(connections["default"].settings_dict, "default")
    editor = wrapper.SchemaEditorClass(wrapper, collect_sql=True)
    editor.deferred_sql = []
    found = items(editor)
    assert any(
        not isinstance(each.template, str)
        for each in found
        if hasattr(each, "template")
    )
    found.append(editor.sql_create_pk % {"table": "a", "name": "b", "columns": "c"})
    for item in filter(None, found):
        restored = load(json.loads(json.dumps(dump(item, editor))), editor)
        change(item)
        change(restored)
        assert type(restored) is type(item)
        assert repr(_text(restored)) == repr(_text(item))


def _text(item: Any) -> Any:
    """Return the SQL of an item, by its statements."""
    found = item.template % item.parts if isinstance(item, Statement) else item
    if isinstance(found, list):
        return [(type(each).__name__, vars(each) and each.sql) for each in found]
    return str(found)
