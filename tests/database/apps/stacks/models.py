"""What PostgreSQL alone has; the migration makes the odd ones by hand."""

from django.db import models
from django.db.models import Q, UniqueConstraint


class Transaction(models.Field):
    """A column that every table has."""

    def db_type(self, connection):
        return "xid"


class Stack(models.Model):
    """In a schema that is not in the search path."""

    name = models.CharField(max_length=50, unique=True)

    class Meta:
        db_table = '"stacks"."stack"'


class Room(models.Model):
    """The same, as it was written before Django knew quotes."""

    name = models.CharField(max_length=50)
    stack = models.ForeignKey(Stack, models.CASCADE)

    class Meta:
        db_table = 'stacks"."room'


class Event(models.Model):
    """Partitioned: nothing is unique but together with the day."""

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
    """Partitioned by an expression: nothing at all is unique."""

    day = models.DateField()
    name = models.CharField(max_length=50)

    class Meta:
        unique_together = [("day", "name")]


class Summary(models.Model):
    """A view, in the place of a table that was renamed."""

    name = models.CharField(max_length=50, unique=True)


class Version(models.Model):
    changed_by = Transaction(db_column="xmin")
