"""Tables and columns are followed through migrations that rename them."""

from __future__ import annotations

import pytest
from django.db import migrations, models
from django.db.migrations.state import ProjectState

from django_safe_init.validation.lineage import Lineage, Trace
from django_safe_init.validation.state_objects import owners, place_of

ID = ("id", models.BigAutoField(primary_key=True))


def create(name: str, *fields: tuple[str, models.Field], **options):
    return migrations.CreateModel(name, [ID, *fields], options)


SHOP = [
    create("Brand", ("peers", models.ManyToManyField("self"))),
    create(
        "Item",
        ("note", models.TextField()),
        ("brand", models.ForeignKey("shop.Brand", models.CASCADE)),
        ("price", models.TextField(db_column='"Price"')),
        ("brands", models.ManyToManyField("shop.Brand", related_name="+")),
        (
            "tags",
            models.ManyToManyField("shop.Brand", related_name="+", db_table="tags"),
        ),
        ("whole", models.ForeignObject("shop.Brand", models.CASCADE, ["id"], ["id"])),
        (
            "sold",
            models.ManyToManyField("shop.Brand", related_name="+", through="shop.Sale"),
        ),
        db_table='"old"."item"',
        order_with_respect_to="brand",
    ),
    migrations.CreateModel("Offer", [], {"proxy": True}, ("shop.item",)),
]
STATE = migrations.SeparateDatabaseAndState


class NameFields(migrations.RunPython):
    """Read the relations of the state, as Django's autodetector does."""

    def __init__(self) -> None:
        super().__init__(migrations.RunPython.noop)

    def state_forwards(self, app_label, state) -> None:
        state.resolve_fields_and_relations()


def places(*pending, label: str = "shop") -> dict[str, str]:
    """Return the last name of each table and column of the shop, by its first name."""
    state = ProjectState()
    for each in SHOP:
        each.state_forwards("shop", state)
    migration = migrations.Migration("next", label)
    migration.operations = list(pending)
    traces = [
        Trace(owner, (place,))
        for owner in owners(state)
        if (place := place_of(state, owner))
    ]
    return {
        _name(trace.places[0]): _name(trace.places[-1])
        for trace in Lineage(state, [migration]).follow(traces)
    }


def _name(place) -> str:
    return place.key.partition(" ")[2]


def changes(*pending, label: str = "shop") -> dict[str, str]:
    """Return the names that changed."""
    found = places(*pending, label=label)
    return {old: new for old, new in found.items() if new != old}


def test_a_field_that_django_has_named(monkeypatch) -> None:
    """Django gives the fields of migrations names when it reads the relations of a state."""
    note = models.TextField()
    monkeypatch.setitem(globals(), "SHOP", [create("Brand", ("note", note))])
    rename = migrations.RenameField("Brand", "note", "remark")
    assert changes(NameFields(), rename) == {"shop_brand.note": "shop_brand.remark"}
    assert note.name


def test_names() -> None:
    """Each table and each column of a state has a name, as in the database."""
    assert set(places()) == {
        "shop_brand",
        "shop_brand.id",
        "shop_brand_peers",
        "shop_brand_peers.id",
        "shop_brand_peers.from_brand_id",
        "shop_brand_peers.to_brand_id",
        "old.item",
        "old.item.id",
        "old.item.note",
        "old.item.brand_id",
        "old.item.Price",
        "old.item._order",
        "old.item_brands",
        "old.item_brands.id",
        "old.item_brands.item_id",
        "old.item_brands.brand_id",
        "tags",
        "tags.id",
        "tags.item_id",
        "tags.brand_id",
    }


def test_a_model() -> None:
    """A model's new name changes its tables and the columns of many-to-many tables."""
    assert changes(migrations.RenameModel("Brand", "Maker")) == {
        "shop_brand": "shop_maker",
        "shop_brand.id": "shop_maker.id",
        "shop_brand_peers": "shop_maker_peers",
        "shop_brand_peers.id": "shop_maker_peers.id",
        "shop_brand_peers.from_brand_id": "shop_maker_peers.from_maker_id",
        "shop_brand_peers.to_brand_id": "shop_maker_peers.to_maker_id",
        "old.item_brands.brand_id": "old.item_brands.maker_id",
        "tags.brand_id": "tags.maker_id",
    }


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (
            migrations.RenameField("Item", "brands", "makers"),
            {
                "old.item_brands": "old.item_makers",
                "old.item_brands.id": "old.item_makers.id",
                "old.item_brands.item_id": "old.item_makers.item_id",
                "old.item_brands.brand_id": "old.item_makers.brand_id",
            },
        ),
        (
            migrations.RenameField("Item", "brand", "maker"),
            {"old.item.brand_id": "old.item.maker_id"},
        ),
        (
            migrations.AlterField("Item", "note", models.TextField(db_column="remark")),
            {"old.item.note": "old.item.remark"},
        ),
        (
            migrations.RunSQL("", state_operations=SHOP[:0]),
            {},
        ),
        (
            STATE(
                database_operations=[migrations.AlterModelTable("Brand", "brand")],
                state_operations=[migrations.DeleteModel("Brand")],
            ),
            {
                "shop_brand": "brand",
                "shop_brand.id": "brand.id",
                "shop_brand_peers": "brand_peers",
                "shop_brand_peers.id": "brand_peers.id",
                "shop_brand_peers.from_brand_id": "brand_peers.from_brand_id",
                "shop_brand_peers.to_brand_id": "brand_peers.to_brand_id",
            },
        ),
    ],
)
def test_a_rename(operation, expected) -> None:
    """An operation changes the names of the objects that depend on it."""
    assert changes(operation) == expected


def test_another_app() -> None:
    """An operation on a model of another app with the same name changes nothing here."""
    other = [create("Brand"), migrations.RenameModel("Brand", "Maker")]
    assert changes(*other, label="store") == {}


@pytest.mark.parametrize(
    ("operation", "ended"),
    [
        (migrations.RemoveField("Item", "note"), {"old.item.note"}),
        (STATE(state_operations=[migrations.RemoveField("Item", "note")]), set()),
        (
            migrations.RemoveField("Item", "tags"),
            {"tags", "tags.id", "tags.item_id", "tags.brand_id"},
        ),
        (
            migrations.AlterOrderWithRespectTo("Item", None),
            {"old.item._order"},
        ),
    ],
)
def test_an_end(operation, ended) -> None:
    """An object that a migration deletes from the database has no name afterwards."""
    assert set(places()) - set(places(operation)) == ended
