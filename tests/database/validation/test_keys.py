"""Validation finds missing foreign keys and indexes, and its repairs bring them back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.apps import apps

from django_safe_init import initialize
from django_safe_init.core.findings import Finding, FindingKind
from django_safe_init.validation import validate_database

BASE = [
    "django_safe_init",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.postgres",
]
APPS = "tests.database.apps"

#: Each index that no constraint needs, by its name, with its definition. Whether Django creates
#: one for LIKE depends on the collation, which only the database knows.
INDEXES = """
    SELECT c.oid::regclass::text AS name, pg_get_indexdef(c.oid) AS definition
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
    WHERE t.relname ~ '^(shelves_|tower|auth_|django_content)' AND t.relkind = 'r'
      AND t.relname NOT IN ('towers_visit_rest', 'towers_ticket')
      AND c.relname <> 'tower_name_cbe70d4a_like'
      AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)
    ORDER BY 1
"""
#: Each foreign key, by its table and name, with its definition.
FOREIGN_KEYS = """
    SELECT conrelid::regclass::text AS table, quote_ident(conname) AS name,
      pg_get_constraintdef(oid) AS definition
    FROM pg_constraint WHERE contype = 'f' AND conparentid = 0
      AND conrelid::regclass::text NOT IN ('towers_guard', 'towers_visit') ORDER BY 1, 2
"""
#: What SQLite knows about its tables.
LITE = """
    SELECT name, sql FROM sqlite_master
    WHERE type = 'index' AND sql LIKE 'CREATE INDEX%' AND tbl_name NOT LIKE 'django_safe%'
    ORDER BY name
"""


@pytest.fixture
def install(settings: Any) -> Callable[..., None]:
    """Return a function that installs these apps beside Django's."""

    def install_all(*names: str) -> None:
        settings.INSTALLED_APPS = [*BASE, *(f"{APPS}.{name}" for name in names)]

    return install_all


@pytest.fixture
def towers(initialize_as: Callable[..., Any], install: Callable[..., None]) -> Any:
    """Both apps, migrated on PostgreSQL."""
    install("shelves", "towers")
    return initialize_as("towers", initialize)


@pytest.fixture
def shelves(lite: Any, install: Callable[..., None]) -> Any:
    """The app that each engine has, migrated on SQLite."""
    install("shelves")
    initialize()
    return lite


def findings() -> list[Finding]:
    return list(validate_database("default", print).findings)


def objects() -> list[tuple[str, str]]:
    return [(each.kind.value, each.object) for each in findings()]


def repair(database: Any) -> None:
    """Run the repairs of all findings, in order."""
    for finding in findings():
        assert finding.repair, finding
        for statement in finding.repair:
            database.rows(statement)


def test_nothing_is_found(towers) -> None:
    """Each foreign key and index that Django has created is found."""
    found = validate_database("default", print)
    assert found.findings == ()
    assert found.tables > 10


def test_nothing_is_found_on_sqlite(shelves) -> None:
    """The same on SQLite."""
    assert findings() == []


def test_each_index(towers) -> None:
    """Each index that was dropped is found, and its repair creates the same one again."""
    before = towers.rows(INDEXES)
    assert len(before) > 40
    for each in before:
        towers.rows(f"DROP INDEX {each['name']}")
        assert len(findings()) == 1, each
        assert len(findings()) == 1, each
        [finding] = findings()
        assert finding.kind is FindingKind.MISSING_INDEX
        assert finding.automatic
        [statement] = finding.repair
        assert statement.startswith("CREATE INDEX CONCURRENTLY")
        towers.rows(statement)
    assert towers.rows(INDEXES) == before
    assert findings() == []


def test_each_index_of_sqlite(shelves) -> None:
    """The same on SQLite, without the options that it lacks."""
    before = shelves.rows(LITE)
    assert len(before) > 20
    for each in before:
        shelves.rows(f'DROP INDEX "{each["name"]}"')
        assert len(findings()) == 1, each
        [finding] = findings()
        assert finding.kind is FindingKind.MISSING_INDEX
        assert finding.automatic
        shelves.rows(*finding.repair)
    assert shelves.rows(LITE) == before
    assert findings() == []


def test_each_foreign_key(towers) -> None:
    """Each foreign key that was dropped is found, and its repair creates the same one again."""
    before = towers.rows(FOREIGN_KEYS)
    assert len(before) > 12
    for each in before:
        towers.rows(f"ALTER TABLE {each['table']} DROP CONSTRAINT {each['name']}")
        assert len(findings()) == 1, each
        [finding] = findings()
        assert finding.kind is FindingKind.MISSING_FOREIGN_KEY
        repair(towers)
    assert towers.rows(FOREIGN_KEYS) == before
    assert findings() == []


# What may stand in place of an index or foreign key


def run(database: Any, statements: str) -> None:
    for statement in statements.split(";"):
        database.rows(statement)


def test_other_names(towers) -> None:
    """Indexes and foreign keys are found by their definitions, whatever their names are."""
    for number, each in enumerate(towers.rows(INDEXES)):
        towers.rows(f"ALTER INDEX {each['name']} RENAME TO renamed_{number}")
    for number, each in enumerate(towers.rows(FOREIGN_KEYS)):
        towers.rows(
            f"ALTER TABLE {each['table']} RENAME CONSTRAINT {each['name']} TO key_{number}"
        )
    assert findings() == []


def test_one_of_two_with_other_names(towers) -> None:
    """A renamed index with a condition stands in for one required index only."""
    run(
        towers,
        "DROP INDEX shelf_wider; ALTER INDEX shelf_narrow RENAME TO mine;"
        "DROP INDEX shelf_lower; CREATE INDEX shelf_up ON shelves_shelf (upper(label))",
    )
    assert objects() == [("missing_index", "shelf_wider")]


@pytest.mark.parametrize(
    ("dropped", "substitute"),
    [
        ("shelf_height_down", "(height)"),
        ("shelf_order", "(height DESC, width)"),
        ("shelf_order", "(height, width DESC, label)"),
        ("shelf_narrow", "(height, id)"),
        ("shelf_narrow", "(height) WHERE width = 1"),
        ("shelf_covering", "(note, height, data)"),
        ("shelves_shelf_width_bb733347", "(width, id)"),
        ("shelves_shelf_label_17abe367_like", "(label text_pattern_ops, id)"),
    ],
)
def test_substitutes(towers, dropped, substitute) -> None:
    """An index of an operator that serves the same queries stands in for a required one."""
    run(
        towers, f"DROP INDEX {dropped}; CREATE INDEX mine ON shelves_shelf {substitute}"
    )
    assert findings() == []


@pytest.mark.parametrize(
    ("dropped", "other"),
    [
        ("shelf_order", "(height, width)"),
        ("shelf_covering", "(note, height)"),
        ("shelves_shelf_width_bb733347", "(width) WHERE width > 0"),
        ("shelves_shelf_width_bb733347", "(id, width)"),
        ("shelves_shelf_width_bb733347", "USING hash (width)"),
        ("shelves_shelf_label_17abe367", "(label text_pattern_ops)"),
        ("shelves_shelf_label_17abe367_like", "(label)"),
        ("shelf_lower", "(label)"),
        ("shelf_narrow", "(height, data) WHERE false"),
    ],
)
def test_no_substitutes(towers, dropped, other) -> None:
    """An index that serves other queries does not stand in for a required one."""
    run(towers, f"DROP INDEX {dropped}; CREATE INDEX mine ON shelves_shelf {other}")
    [(kind, _)] = objects()
    assert kind == "missing_index"


def test_the_same_name(towers) -> None:
    """An index with the model's name is taken as it is."""
    run(
        towers,
        "DROP INDEX shelf_order; CREATE INDEX shelf_order ON shelves_shelf (height);"
        "DROP INDEX shelves_shelf_width_bb733347;"
        "CREATE INDEX shelves_shelf_width_bb733347 ON shelves_shelf (id)",
    )
    assert findings() == []


def test_invalid_indexes(towers) -> None:
    """An invalid index is a finding of its own kind, and a leftover of REINDEX is no index."""
    run(
        towers,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'shelf_order'::regclass;"
        "ALTER INDEX shelves_shelf_width_bb733347 RENAME TO width_ccnew;"
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'width_ccnew'::regclass",
    )
    assert objects() == [
        ("missing_index", "shelves_shelf (width)"),
        ("invalid_index", "shelf_order"),
        ("invalid_index", "width_ccnew"),
    ]
    repair(towers)
    assert findings() == []


def test_a_foreign_key_to_another_table(towers) -> None:
    """A foreign key to another table, or another column, is not the required one."""
    run(
        towers,
        'ALTER TABLE shelves_shelf DROP CONSTRAINT "'
        'shelves_shelf_Named By_2509bbd0_fk_shelves_room_name";'
        'ALTER TABLE shelves_shelf ADD FOREIGN KEY ("Named By") REFERENCES shelves_room',
    )
    [finding] = findings()
    assert finding.message == (
        "The table shelves_shelf of shelves.Shelf lacks the foreign key Named By"
        " to shelves_room (name)."
    )


def test_a_foreign_key_that_was_never_checked(towers) -> None:
    """A foreign key that is NOT VALID is a finding of its own kind."""
    towers.rows(
        "ALTER TABLE shelves_door DROP CONSTRAINT"
        " shelves_door_room_id_851e9661_fk_shelves_room_code"
    )
    [finding] = findings()
    towers.rows(finding.repair[0])
    assert [kind for kind, _ in objects()] == ["not_valid_constraint"]


# What is missing, too


def test_a_missing_column(towers) -> None:
    """An index of a missing column is a finding that no one repairs before the column."""
    run(towers, "ALTER TABLE shelves_shelf DROP COLUMN height, DROP COLUMN room_id")
    found = findings()
    names = {each.object for each in found if each.kind is FindingKind.MISSING_INDEX}
    assert names >= {"shelf_order", "shelf_covering", "shelf_narrow"}
    assert not any(name.startswith("shelves_shelf (") for name in names)
    assert not any(each.automatic for each in found)
    repair(towers)
    assert findings() == []


def test_a_missing_target(towers) -> None:
    """A foreign key to a missing table or column is a finding, repaired after it."""
    run(towers, "DROP TABLE shelves_room CASCADE")
    found = [each for each in findings() if each.kind is not FindingKind.MISSING_TABLE]
    assert {each.kind for each in found} == {FindingKind.MISSING_FOREIGN_KEY}
    assert not any(each.automatic for each in found)
    repair(towers)
    assert findings() == []
    run(towers, "ALTER TABLE shelves_room DROP COLUMN name CASCADE")
    found = [each for each in findings() if each.kind is not FindingKind.MISSING_COLUMN]
    assert [each.automatic for each in found] == [False]


def test_no_migration_creates_it(towers, monkeypatch) -> None:
    """The repair is `makemigrations` for what no migration creates."""
    shelf = apps.get_model("shelves", "Shelf")
    deep = apps.get_model("shelves", "Deep")
    monkeypatch.setattr(deep._meta.get_field("depth"), "db_index", True)
    monkeypatch.setattr(shelf._meta.get_field("loose"), "db_constraint", True)
    for finding in findings():
        assert finding.repair[0] == "python manage.py makemigrations shelves"
        assert not finding.automatic
    assert len(findings()) == 2


def test_levels(towers, settings) -> None:
    """A kind with the level "off" is skipped."""
    run(
        towers,
        "DROP INDEX shelf_order; ALTER TABLE shelves_door DROP CONSTRAINT"
        " shelves_door_room_id_851e9661_fk_shelves_room_code",
    )
    assert [each.level for each in findings()] == ["warn", "warn"]
    for kind, other in (
        ("missing_index", "missing_foreign_key"),
        ("missing_foreign_key", "missing_index"),
    ):
        settings.SAFE_INIT = {"IN_TESTS": True, "VALIDATE": {kind: "off"}}
        assert [each for each, _ in objects()] == [other]


# Foreign keys of SQLite

_NEW_DOOR = (
    "DROP TABLE shelves_door; CREATE TABLE shelves_door (id integer PRIMARY KEY,"
    " room_id varchar(10) UNIQUE, outside_id bigint{});"
    "CREATE INDEX outside ON shelves_door (outside_id);"
    "INSERT INTO shelves_room VALUES ('a', 'b');"
    "INSERT INTO shelves_door (id, room_id, outside_id) VALUES (7, 'a', 8)"
)


def test_a_foreign_key_of_sqlite(shelves) -> None:
    """The repair makes the table anew with the same rows, and no command runs it."""
    run(shelves, _NEW_DOOR.format(""))
    [finding] = findings()
    assert finding.object == "shelves_door (room_id)"
    assert not finding.automatic
    repair(shelves)
    assert findings() == []
    assert shelves.rows("SELECT * FROM shelves_door") == [
        {"id": 7, "room_id": "a", "outside_id": 8}
    ]


def test_a_table_of_sqlite_with_another_column(shelves) -> None:
    """The table has no repair if it would lose a column."""
    run(shelves, _NEW_DOOR.format(", mine text"))
    [finding] = findings()
    assert finding.repair == ()
