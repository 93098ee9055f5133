"""Models with indexes that only PostgreSQL has; some tables are written in SQL."""

from django.contrib.postgres.fields import ArrayField, DateRangeField
from django.contrib.postgres.indexes import (
    BrinIndex,
    BTreeIndex,
    GinIndex,
    GistIndex,
    HashIndex,
    OpClass,
    SpGistIndex,
)
from django.db import models
from django.db.models import F, Index, Q
from django.db.models.functions import Upper


class OwnIndex(Index):
    """An index that a subclass creates with its own SQL."""

    def create_sql(self, model, schema_editor, using="", **kwargs):
        return "SELECT 1"


class Tower(models.Model):
    name = models.CharField(max_length=50, db_collation="C", db_index=True)
    title = models.CharField(max_length=50)
    tags = ArrayField(models.CharField(max_length=9), db_index=True)
    built = models.DateField()
    open_at = DateRangeField()
    data = models.JSONField()

    class Meta:
        db_table = '"towers"."tower"'
        indexes = [
            GinIndex(fields=["tags"], name="tower_tags"),
            GinIndex(fields=["data"], name="tower_path", opclasses=["jsonb_path_ops"]),
            GinIndex(fields=["data"], name="tower_data"),
            BrinIndex(fields=["built"], name="tower_built", pages_per_range=4),
            BTreeIndex(fields=["built", "title"], name="tower_btree", fillfactor=80),
            HashIndex(fields=["title"], name="tower_hash"),
            SpGistIndex(fields=["title"], name="tower_spgist"),
            GistIndex(fields=["open_at"], name="tower_open"),
            Index(
                fields=["title"], name="tower_like", opclasses=["varchar_pattern_ops"]
            ),
            Index(
                OpClass(F("title"), name="text_pattern_ops").desc(), name="tower_down"
            ),
            GinIndex(
                F("data"), name="tower_some", condition=Q(title="new"), fastupdate=False
            ),
            HashIndex(Upper("title"), name="tower_upper"),
            OwnIndex(fields=["open_at", "title"], name="tower_own"),
        ]


class Window(models.Model):
    """A table in another schema than its target's."""

    tower = models.ForeignKey(Tower, models.CASCADE)


class Visit(models.Model):
    """A partitioned table, whose partitions have the indexes."""

    tower = models.ForeignKey(Tower, models.CASCADE)
    day = models.DateField(db_index=True)


class Ticket(models.Model):
    """A reference to a partitioned table, whose key PostgreSQL cannot enforce."""

    visit = models.ForeignKey(Visit, models.CASCADE)


class Guard(models.Model):
    """A reference of two columns, as a database of many tenants has."""

    name = models.CharField(max_length=50)
    tower = models.ForeignKey(Tower, models.CASCADE, related_name="+", db_index=False)


class Report(models.Model):
    """A view in place of a table."""

    tower = models.ForeignKey(Tower, models.CASCADE)
