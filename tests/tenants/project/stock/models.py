"""The models of each tenant."""

from django.db import models


class Box(models.Model):
    label = models.CharField(max_length=100)
    weight = models.IntegerField(default=0, db_index=True)
    color = models.CharField(max_length=20, default="")

    class Meta:
        permissions = [("open_box", "Can open a box")]


class Shelf(models.Model):
    name = models.CharField(max_length=50, unique=True)
    boxes = models.ManyToManyField(Box)
