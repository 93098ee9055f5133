"""Validation compares the models with catalog values, without a database."""

from __future__ import annotations

import pytest
from django.db import models
from django.db.models import UniqueConstraint

from django_safe_init.backends.base.introspection import (
    Catalog,
    Relation,
    TableName,
    Unique,
    UniqueIndex,
)
from django_safe_init.backends.postgresql.introspection import (
    normalize_identifier as normalize_postgresql,
)
from django_safe_init.backends.sqlite3.introspection import (
    normalize_identifier as normalize_sqlite,
)
from django_safe_init.core.build import Build
from django_safe_init.core.findings import Finding, FindingKind, management_command_line
from django_safe_init.management.console import format_findings
from django_safe_init.validation import ValidationReport, log_findings
from django_safe_init.validation.classify import apps_ahead
from django_safe_init.validation.model_schema import column_of, table_name, tables_of

AB = frozenset({"a", "b"})


@pytest.mark.parametrize(
    ("db_table", "schema", "name"),
    [
        ("shop_product", None, "shop_product"),
        ('"Shop"', None, "Shop"),
        ('"stock"."product"', "stock", "product"),
        ('stock"."product', "stock", "product"),
        ('"main"."stock"."product"', "stock", "product"),
        ("stock.product", None, "stock.product"),
        ('"', None, '"'),
    ],
)
def test_names_of_tables(db_table, schema, name) -> None:
    """A model names its table with a schema, with quotes, or without either."""
    assert table_name(db_table) == TableName(schema, name)


def test_names_of_columns() -> None:
    """Quotes around the name of a column are not part of the name."""
    for column, name in (('"Name"', "Name"), ('na"me', 'na"me')):
        field = models.TextField(db_column=column)
        field.set_attributes_from_name("name")
        assert column_of(field) == name


@pytest.mark.parametrize(
    ("columns", "plain", "nulls_equal", "covered"),
    [
        ("a", True, False, True),
        ("ab", True, False, True),
        ("abc", True, False, False),
        ("", True, False, False),
        ("a", False, False, False),
        ("a", True, True, True),
    ],
)
def test_covering_indexes(columns, plain, nulls_equal, covered) -> None:
    """An index on some of the columns makes all of them unique, unless it has a condition."""
    index = UniqueIndex("x", frozenset(columns), plain, nulls_equal)
    assert index.covers(AB, nulls_equal=False) is covered
    assert index.covers(AB, nulls_equal=True) is (covered and nulls_equal)


def test_partitions() -> None:
    """A partitioned table can only enforce uniqueness that includes the partition key."""
    relation = Relation(AB, partitioned_by=frozenset({"b"}))
    unique = Unique(("a",), ())
    catalog = Catalog({})
    assert catalog.enforces(relation, unique)
    assert not catalog.enforces(relation, Unique(("a", "b"), ()))
    assert catalog.enforces(Relation(AB, indexable=False), unique)


def test_unsupported_features() -> None:
    """A constraint that Django does not create on a database is not missing there."""
    later = UniqueConstraint(
        fields=["a"], name="later", deferrable=models.Deferrable.DEFERRED
    )
    unique = Unique(("a",), (), constraint=later)
    assert unique.features == {"deferrable"}
    assert Catalog({}).enforces(Relation(AB), unique)
    able = Catalog({}, features=frozenset({"deferrable", "include"}))
    assert not able.enforces(Relation(AB), unique)


def test_normalized_identifiers() -> None:
    """PostgreSQL truncates names after 63 bytes; SQLite ignores the case of A to Z."""
    assert normalize_postgresql("a" * 64) == "a" * 63
    assert normalize_postgresql("a" * 62 + "ä") == "a" * 62
    assert normalize_postgresql("Book") == "Book"
    assert normalize_sqlite("BookÄ") == "bookÄ"


def test_a_constraint_with_custom_sql() -> None:
    """Validation skips a constraint whose class creates its own SQL."""

    class Odd(UniqueConstraint):
        def create_sql(self, model, schema_editor):
            return None

    class Thing(models.Model):
        name = models.TextField()

        class Meta:
            app_label = "contenttypes"
            constraints = [Odd(fields=["name"], name="odd")]

    try:
        [table] = tables_of("default", [Thing])
    finally:
        del Thing._meta.apps.all_models["contenttypes"]["thing"]
        Thing._meta.apps.clear_cache()
    assert [unique.columns for unique in table.uniques] == [("id",)]


def test_apps_ahead() -> None:
    """Only migrations recorded after the newest known migration belong to a newer build."""
    build = Build(frozenset({"a.1", "a.2", "b.2", "c.1"}), "x")
    recorded = ["a.1", "b.1", "gone.1", "a.2", "b.2", "a.3", "a.4", "c.1"]
    assert apps_ahead(recorded, build) == {"a": ("a.2", "a.3")}


def test_commands() -> None:
    """A command names the database unless it is the default."""
    assert management_command_line("safe_migrate") == "python manage.py safe_migrate"
    assert (
        management_command_line("safe_migrate", "b")
        == "python manage.py safe_migrate --database b"
    )


def test_texts() -> None:
    """A finding without a repair shows only its message."""
    finding = Finding(FindingKind.MISSING_TABLE, "error", "t", None, "It is missing.")
    assert str(finding) == "It is missing."
    report = ValidationReport("default", 2, (finding,))
    assert list(format_findings(report, show_all=False)) == [
        "default: 1 error, 0 warnings",
        "\nmissing_table (error)",
        "  It is missing.",
    ]


def many_findings() -> list[Finding]:
    """Return 12 warnings, then 30 errors, each with a repair."""
    return [
        *(
            Finding(
                FindingKind.INVALID_INDEX, "warn", f"i{n}", None, f"{n}?", ("FIX;",)
            )
            for n in range(12)
        ),
        *(
            Finding(
                FindingKind.MISSING_TABLE, "error", f"t{n}", None, f"{n}.", ("ADD;",)
            )
            for n in range(30)
        ),
    ]


def test_many_findings() -> None:
    """The first findings of each kind are shown with their repair, or all of them."""
    report = ValidationReport("default", 2, tuple(many_findings()))
    assert list(format_findings(report, show_all=False)) == [
        "default: 30 errors, 12 warnings",
        "\ninvalid_index (warn)",
        *(f"  {n}?" for n in range(10)),
        "    FIX;",
        "  and 2 more (--verbosity 2 shows all)",
        "\nmissing_table (error)",
        *(f"  {n}." for n in range(10)),
        "    ADD;",
        "  and 20 more (--verbosity 2 shows all)",
    ]
    lines = list(format_findings(report, show_all=True))
    assert len(lines) == 1 + 2 + 12 + 30 + 2
    assert not any("more" in line for line in lines)


def test_many_logged_findings(caplog) -> None:
    """Errors are logged first, and a long list ends with the command that shows all."""
    log_findings("shop", many_findings())
    assert len(caplog.records) == 21
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert caplog.messages[0].startswith("Validation of shop: 0. ")
    assert caplog.messages[-1] == (
        "Validation of shop: 22 more. List them: "
        "python manage.py safe_init_validate --database shop"
    )
