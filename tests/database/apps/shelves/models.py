"""Models with foreign keys and indexes that each engine has."""

from django.db import models
from django.db.models import F, Index, Q
from django.db.models.functions import Lower


class Room(models.Model):
    code = models.CharField(max_length=10, primary_key=True)
    name = models.CharField(max_length=50, unique=True)


class Shelf(models.Model):
    """Foreign keys to other columns than an id, to itself, and without a constraint."""

    room = models.ForeignKey(Room, models.CASCADE)
    named = models.ForeignKey(
        Room, models.CASCADE, to_field="name", related_name="+", db_column="Named By"
    )
    above = models.ForeignKey("self", models.CASCADE, null=True)
    loose = models.ForeignKey(
        Room, models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    label = models.CharField(max_length=20, db_index=True)
    note = models.TextField(db_index=True)
    width = models.IntegerField(db_index=True)
    height = models.IntegerField()
    data = models.JSONField(default=dict)

    class Meta:
        indexes = [
            Index(fields=["height", "-width"], name="shelf_order"),
            Index(fields=["-height"], name="shelf_height_down"),
            Index(fields=["height", "label", "width"]),
            Index(fields=["height"], condition=Q(width=1), name="shelf_narrow"),
            Index(fields=["height"], condition=Q(width=2), name="shelf_wider"),
            Index(fields=["note", "height"], include=["data"], name="shelf_covering"),
            Index(Lower("label"), name="shelf_lower"),
            Index(Lower("note").desc(), F("height"), name="shelf_lower_note"),
            Index(F("height").desc(), F("note"), name="shelf_columns"),
            Index("data__size", name="shelf_size"),
        ]


class Deep(Shelf):
    depth = models.IntegerField()
    rooms = models.ManyToManyField(Room, related_name="deep")


class Flat(Shelf):
    class Meta:
        proxy = True


class Door(models.Model):
    """A unique foreign key, which needs no other index."""

    room = models.OneToOneField(Room, models.CASCADE)
    outside = models.ForeignKey("Garden", models.CASCADE, db_constraint=False)


class Garden(models.Model):
    """An unmanaged model."""

    room = models.ForeignKey(Room, models.CASCADE)

    class Meta:
        managed = False
