from django.db import models


class Product(models.Model):
    name = models.CharField(max_length=100)


class Entry(models.Model):
    """What the data migrations of a scenario leave behind, one row for each time they ran."""

    text = models.CharField(max_length=100)
    pid = models.IntegerField()
    at = models.DateTimeField()


class Sale(models.Model):
    product = models.ForeignKey(Product, models.CASCADE)
