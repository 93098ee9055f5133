"""Models with features that only PostgreSQL has; some tables are written in SQL."""

from django.db import models
from django.db.models import Q, UniqueConstraint


class Transaction(models.Field):
    """A field for a system column, which every table has."""

    def db_type(self, connection):
        return "xid"


class Stack(models.Model):
    """A table in a schema outside the search path."""

    name = models.CharField(max_length=50, unique=True)

    class Meta:
        db_table = '"stacks"."stack"'


class Room(models.Model):
    """A table in a schema, in the notation before Django supported quotes."""

    name = models.CharField(max_length=50)
    stack = models.ForeignKey(Stack, models.CASCADE)

    class Meta:
        db_table = 'stacks"."room'


class Event(models.Model):
    """A partitioned table, whose unique constraints must include the day."""

    day = models.DateField()
    name = models.CharField(max_length=50, unique=True)

    class Meta:
        constraints = [
            UniqueConstraint(fields=["name", "day"], name="event_name"),
            UniqueConstraint(
                fields=["name"], condition=Q(day=None), name="event_never"
            ),
        ]


class Reading(models.Model):
    """A table partitioned by an expression, which cannot have unique constraints."""

    day = models.DateField()
    name = models.CharField(max_length=50)

    class Meta:
        unique_together = [("day", "name")]


class Summary(models.Model):
    """A view in place of a renamed table."""

    name = models.CharField(max_length=50, unique=True)


class Version(models.Model):
    changed_by = Transaction(db_column="xmin")
