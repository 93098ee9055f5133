"""The packages that are killed: some bring operations or a schema editor, others are large."""

from __future__ import annotations

from .known import PACKAGES, Package

#: The version of the server that has `hstore`, as Debian packages it.
WITH_HSTORE = 15

_SHELVES = """
class Shelf(models.Model):
    label = models.CharField(max_length=50)

class Book(models.Model):
    title = models.CharField(max_length=50)
    isbn = models.CharField(max_length=13, null=True)
    pages = models.IntegerField(default=0, db_index=True)
    notes = models.TextField(null=True)
"""

_SAFER = """
from django.db import migrations, models
from django_pg_migration_tools import operations as safer, timeouts

def fill(apps, editor):
    book, shelf = (apps.get_model("probe", name) for name in ("Book", "Shelf"))
    for number in range(20):
        shelf.objects.create(label=f"shelf {number}")
        book.objects.create(title=f"book {number}", isbn=str(number), notes="none")

class Migration(migrations.Migration):
    atomic = False
    dependencies = [("probe", "0001_initial")]
    operations = [
        migrations.RunPython(fill, migrations.RunPython.noop, atomic=True),
        safer.SaferAddIndexConcurrently(
            "book", models.Index(fields=["title"], name="probe_title")
        ),
        safer.SaferAddIndexConcurrently(
            "book", models.Index(fields=["-isbn", "title"], name="probe_isbn")
        ),
        safer.SaferRemoveIndexConcurrently("book", "probe_title"),
        safer.SaferAlterFieldSetNotNull("book", "isbn", models.CharField(max_length=13)),
        safer.SaferAddUniqueConstraint(
            "book", models.UniqueConstraint(fields=["isbn"], name="probe_one_isbn")
        ),
        safer.SaferAddCheckConstraint(
            "book",
            models.CheckConstraint(condition=models.Q(pages__gte=0), name="probe_pages"),
        ),
        safer.SaferAddFieldForeignKey(
            "book",
            "shelf",
            models.ForeignKey("probe.Shelf", models.CASCADE, null=True),
        ),
        safer.SaferAddFieldOneToOne(
            "book",
            "twin",
            models.OneToOneField(
                "probe.Book", models.CASCADE, null=True, related_name="+"
            ),
        ),
        migrations.RenameField("book", "notes", "remarks"),
        safer.SaferRemoveCheckConstraint("book", "probe_pages"),
        safer.SaferAddUniqueConstraint(
            "shelf", models.UniqueConstraint(fields=["label"], name="probe_label")
        ),
        safer.SaferRemoveUniqueConstraint("shelf", "probe_label"),
    ]
"""

_TRACKED = """
import pghistory, pgtrigger

@pghistory.track()
class Shelf(models.Model):
    label = models.CharField(max_length=50, unique=True)

@pghistory.track(pghistory.InsertEvent(), pghistory.DeleteEvent("book.gone"))
class Book(models.Model):
    title = models.CharField(max_length=50, db_index=True)
    shelf = models.ForeignKey(Shelf, models.CASCADE)
    gone = models.BooleanField(default=False)
    version = models.IntegerField(default=0)

    class Meta:
        triggers = [
            pgtrigger.Protect(name="protect_deletes", operation=pgtrigger.Delete),
            pgtrigger.ReadOnly(name="fixed_title", fields=["title"]),
            pgtrigger.Trigger(
                name="count_versions",
                operation=pgtrigger.Update,
                when=pgtrigger.Before,
                func="NEW.version = OLD.version + 1; RETURN NEW;",
            ),
        ]
"""

_TRIGGERS = """
import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models

def fill(apps, editor):
    book, shelf = (apps.get_model("probe", name) for name in ("Book", "Shelf"))
    for number in range(20):
        on = shelf.objects.create(label=f"shelf {number}")
        book.objects.create(title=f"book {number}", shelf=on)

def bare(apps, editor):
    apps.get_model("probe", "Book").objects.filter(version=0).update(gone=True)

class Migration(migrations.Migration):
    atomic = False
    dependencies = [("probe", "0001_initial")]
    operations = [
        migrations.RunPython(fill, migrations.RunPython.noop, atomic=True),
        migrations.RunPython(bare, migrations.RunPython.noop),
        pgtrigger.migrations.RemoveTrigger("book", "protect_deletes"),
        pgtrigger.migrations.AddTrigger(
            "book",
            pgtrigger.compiler.Trigger(
                name="no_more",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    func="RAISE EXCEPTION 'no';",
                    hash="0123",
                    operation="DELETE",
                    pgid="pgtrigger_no_more_0123",
                    table="probe_book",
                    when="BEFORE",
                ),
            ),
        ),
        migrations.AddField(
            "book", "editor", models.CharField(max_length=9, default="", db_index=True)
        ),
        migrations.RenameField("shelf", "label", "name"),
    ]
"""

_PARTITIONED = """
from psqlextra.fields import HStoreField
from psqlextra.indexes import CaseInsensitiveUniqueIndex, ConditionalUniqueIndex
from psqlextra.models import PostgresModel, PostgresPartitionedModel
from psqlextra.types import PostgresPartitioningMethod

class Shelf(PostgresModel):
    label = models.CharField(max_length=50)
    title = HStoreField(uniqueness=["en"], required=["de"], default=dict)

    class Meta:
        indexes = [
            CaseInsensitiveUniqueIndex(fields=["label"], name="probe_label"),
            ConditionalUniqueIndex(
                fields=["label"], condition='"label" <> \\'x\\'', name="probe_other"
            ),
        ]

class Event(PostgresPartitionedModel):
    class PartitioningMeta:
        method = PostgresPartitioningMethod.RANGE
        key = ["at"]

    name = models.TextField(db_index=True)
    at = models.DateTimeField(primary_key=True)
    shelf = models.ForeignKey(Shelf, models.CASCADE)
"""

_PARTITIONS = """
from django.db import migrations, models
from psqlextra.backend.migrations.operations import (
    PostgresAddRangePartition, PostgresDeleteDefaultPartition, PostgresDeleteRangePartition,
)

def fill(apps, editor):
    shelf = apps.get_model("probe", "Shelf")
    for number in range(20):
        shelf.objects.create(label=f"shelf {number}", title={"en": str(number), "de": "x"})

class Migration(migrations.Migration):
    atomic = False
    dependencies = [("probe", "0001_initial")]
    operations = [
        migrations.RunPython(fill, migrations.RunPython.noop, atomic=True),
        *[
            PostgresAddRangePartition(
                "Event", name=f"y{year}",
                from_values=f"{year}-01-01", to_values=f"{year + 1}-01-01",
            )
            for year in range(2020, 2026)
        ],
        PostgresDeleteDefaultPartition("Event", name="default"),
        PostgresDeleteRangePartition("Event", name="y2020"),
        migrations.AddField("Event", "size", models.IntegerField(default=0, db_index=True)),
        migrations.RenameField("Event", "name", "title"),
    ]
"""

_CHANGES = """
from django.db import migrations, models

def fill(apps, editor):
    book, shelf = (apps.get_model("probe", name) for name in ("Book", "Shelf"))
    for number in range(20):
        shelf.objects.create(label=f"shelf {number}")
        book.objects.create(title=f"book {number}", isbn=str(number), notes="none")

class Migration(migrations.Migration):
    dependencies = [("probe", "0001_initial")]
    operations = [
        migrations.CreateModel(
            "Reader",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("name", models.CharField(max_length=50, db_index=True, unique=True)),
                ("last", models.ForeignKey("probe.Book", models.CASCADE, null=True)),
                ("books", models.ManyToManyField("probe.Book", related_name="+")),
            ],
            options={"unique_together": {("name", "last")}},
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.AddField(
            "book", "shelf", models.ForeignKey("probe.Shelf", models.CASCADE, null=True)
        ),
        migrations.AddField("book", "size", models.IntegerField(default=3)),
        migrations.AlterField("book", "isbn", models.CharField(max_length=13, unique=True)),
        migrations.AddIndex("book", models.Index(fields=["size"], name="probe_size")),
        migrations.AddConstraint(
            "book", models.UniqueConstraint(fields=["title"], name="probe_one_title")
        ),
        migrations.AddConstraint(
            "book", models.CheckConstraint(condition=models.Q(size__gt=0), name="probe_any")
        ),
        migrations.RenameField("book", "shelf", "place"),
        migrations.RenameModel("Shelf", "Rack"),
        migrations.AlterField("book", "pages", models.BigIntegerField(default=0)),
        migrations.AlterModelTable("reader", "people"),
        migrations.RemoveField("book", "notes"),
        migrations.RunSQL(
            ["UPDATE probe_book SET size = size + 1", "CREATE TABLE probe_log (a int)"],
            ["UPDATE probe_book SET size = size - 1", "DROP TABLE probe_log"],
        ),
    ]
"""

_ZERO_DOWNTIME = "django_zero_downtime_migrations.backends.postgres"
#: An operation that builds an index concurrently may be repeated.
_REPEATABLE = {"ZERO_DOWNTIME_MIGRATIONS_IDEMPOTENT_SQL": True}
_WAGTAIL = next(each for each in PACKAGES if each.name == "wagtail")

KILLED = [
    Package(
        "django.contrib",
        [],
        distribution=None,
        models=_SHELVES,
        migrations={"0002_changes": _CHANGES},
    ),
    _WAGTAIL,
    Package(
        "pulpcore",
        [
            "django.contrib.postgres",
            "import_export",
            "django_filters",
            "django_guid",
            "drf_spectacular",
            "rest_framework",
            "pulpcore.app",
        ],
        {"CONTENT_ORIGIN": "http://127.0.0.1", "ORPHAN_PROTECTION_TIME": 1440},
        constants="pulpcore.app.settings",
        without=["sqlite"],
    ),
    Package(
        "django-pgtrigger",
        ["pgtrigger", "pghistory"],
        models=_TRACKED,
        migrations={"0002_triggers": _TRIGGERS},
        requires=["django-pghistory"],
        without=["sqlite"],
    ),
    Package(
        "django-postgres-extra",
        ["django.contrib.postgres", "psqlextra"],
        models=_PARTITIONED,
        migrations={"0002_partitions": _PARTITIONS},
        makemigrations="pgmakemigrations",
        without=["sqlite"],
        backend="psqlextra.backend",
    ),
    Package(
        "django-pg-migration-tools",
        ["django_pg_migration_tools"],
        models=_SHELVES,
        migrations={"0002_safer": _SAFER},
        without=["sqlite"],
    ),
    Package(
        "django-pg-zero-downtime-migrations",
        ["django_zero_downtime_migrations"],
        _REPEATABLE,
        models=_SHELVES,
        migrations={"0002_changes": _CHANGES},
        without=["sqlite"],
        backend=_ZERO_DOWNTIME,
    ),
    Package(
        "wagtail and zero downtime",
        _WAGTAIL.apps,
        {**_WAGTAIL.settings, **_REPEATABLE},
        distribution="wagtail",
        requires=["django-pg-zero-downtime-migrations"],
        without=["sqlite"],
        backend=_ZERO_DOWNTIME,
    ),
]
