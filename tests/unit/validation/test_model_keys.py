"""Validation derives indexes from models, without a database."""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.indexes import GinIndex
from django.db import connection, models
from django.db.models import Index
from django.db.models.fields import Field

from django_safe_init.backends.base.introspection import TableKeys
from django_safe_init.validation.model_keys import indexes_of
from django_safe_init.validation.model_schema import tables_of
from tests.fake_backend.introspection import FakeIntrospection


class Shape(models.IntegerField):
    """A field whose index is of another kind, as in `django.contrib.gis`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.spatial_index = True


class Unstored(models.Field):
    """A field without a column."""

    def get_attname_column(self) -> tuple[str, None]:
        return self.name, None  # type: ignore[return-value]


def required(fields: dict[str, Field], features: set[str], *indexes: Index) -> list:
    """Return the columns of the indexes of a model with these fields."""
    meta = type("Meta", (), {"app_label": "contenttypes", "indexes": list(indexes)})
    names = {**fields, "Meta": meta, "__module__": "contenttypes.models"}
    model = type("Thing", (models.Model,), names)
    try:
        [table] = tables_of("default", [model])
        return [each.columns for each in indexes_of(table, connection, features)]
    finally:
        del model._meta.apps.all_models["contenttypes"]["thing"]
        model._meta.apps.clear_cache()


def test_geographic_fields() -> None:
    """An index of a geographic field is not required, because it is of another kind."""
    fields = {"shape": Shape(db_index=True), "name": models.IntegerField()}
    index = Index(fields=["shape", "name"], name="both")
    assert required(fields, set(), index) == []


def test_fields_without_a_column() -> None:
    """An index of a field without a column is not required."""
    index = Index(fields=["nothing"], name="none")
    assert required({"nothing": Unstored()}, set(), index) == []


def test_methods() -> None:
    """An index of PostgreSQL's methods is required only where the engine has methods."""
    fields = {"name": models.IntegerField()}
    index = GinIndex(fields=["name"], name="gin")
    assert required(fields, {"index_methods"}, index) == [("name",)]
    assert required(fields, set(), index) == []


def test_indexes_that_migrations_do_not_see() -> None:
    """An index that code adds to a model without indexes is not required."""
    fields = {"name": models.IntegerField(db_index=True)}
    assert (
        required(fields, set(), Index(fields=["name"], name="one")) == [("name",)] * 2
    )

    class Plain(models.Model):
        name = models.IntegerField()

        class Meta:
            app_label = "contenttypes"

    try:
        Plain._meta.indexes.append(Index(fields=["name"], name="added"))
        [table] = tables_of("default", [Plain])
        assert list(indexes_of(table, connection, set())) == []
    finally:
        del Plain._meta.apps.all_models["contenttypes"]["plain"]
        Plain._meta.apps.clear_cache()


def test_an_engine_whose_keys_are_not_compared() -> None:
    """An introspection need not know foreign keys and indexes."""
    introspection = FakeIntrospection.__new__(FakeIntrospection)
    assert introspection.table_keys() == {}
    assert introspection.indexes([]) == {}


def test_an_engine_without_indexes_for_patterns() -> None:
    """The keys of a table have no index for LIKE unless the engine says so."""

    class Keys(TableKeys):
        has_index = is_unique = references = lambda *arguments: False

    assert not Keys().has_pattern_index("name")
