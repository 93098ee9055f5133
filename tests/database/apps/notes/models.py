"""An app without migrations, whose tables only `migrate --run-syncdb` creates."""

from django.db import models


class Note(models.Model):
    text = models.TextField()


class Label(models.Model):
    name = models.CharField(max_length=20, unique=True)
