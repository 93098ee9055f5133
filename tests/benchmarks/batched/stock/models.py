"""One table with many rows."""

from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=100)
    price = models.IntegerField(null=True)

    def __str__(self) -> str:
        return self.name
