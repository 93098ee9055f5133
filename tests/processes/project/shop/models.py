from django.conf import settings
from django.db import models


class Product(models.Model):
    name = models.CharField(max_length=100)

    class Meta:
        # Validation covers managed models. Only the scenario `lacking` has this table checked.
        managed = settings.SCENARIO == "lacking"


class Entry(models.Model):
    """One row for each execution of a scenario's data migration."""

    text = models.CharField(max_length=100)
    pid = models.IntegerField()
    at = models.DateTimeField()

    class Meta:
        managed = False


class Sale(models.Model):
    product = models.ForeignKey(Product, models.CASCADE)

    class Meta:
        managed = False
