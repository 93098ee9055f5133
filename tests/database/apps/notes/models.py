"""An app without migrations: Django makes its tables only if asked to."""

from django.db import models


class Note(models.Model):
    text = models.TextField()


class Label(models.Model):
    name = models.CharField(max_length=20, unique=True)
