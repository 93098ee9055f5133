from django.conf import settings
from django.db import models


class Product(models.Model):
    name = models.CharField(max_length=100)

    class Meta:
        # What tables there are is the scenario's affair; it is this one's that one is not.
        managed = settings.SCENARIO == "lacking"


class Entry(models.Model):
    """What the data migrations of a scenario leave behind, one row for each time they ran."""

    text = models.CharField(max_length=100)
    pid = models.IntegerField()
    at = models.DateTimeField()

    class Meta:
        managed = False


class Sale(models.Model):
    product = models.ForeignKey(Product, models.CASCADE)

    class Meta:
        managed = False
