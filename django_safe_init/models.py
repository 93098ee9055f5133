"""Read-only models of the two tables, which `tables` creates and `recorder` writes.

They live in a registry of their own, as Django's model of `django_migrations` does: the tables
belong to one database and may be missing in another, so `migrate`, `makemigrations`,
`dumpdata`, content types and permissions must not know them.
"""

from __future__ import annotations

from django.apps.registry import Apps
from django.db import models

from django_safe_init.core.states import State

_registry = Apps()


class Run(models.Model):
    """One initialization by one leader. Its id is the epoch."""

    id = models.BigAutoField(primary_key=True)
    lock_key = models.TextField(default="")
    build = models.TextField()
    state = models.TextField(choices=[(state.value, state.value) for state in State])
    outcome = models.TextField(null=True)
    done = models.IntegerField(default=0)
    total = models.IntegerField(default=0)
    progress = models.IntegerField(default=0)
    message = models.TextField(default="")
    leader = models.TextField()
    backend_pid = models.IntegerField()
    command = models.TextField()
    version = models.TextField()
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    error = models.TextField(null=True)
    item_done = models.BigIntegerField(null=True)
    item_total = models.BigIntegerField(null=True)
    item_message = models.TextField(null=True)

    class Meta:
        apps = _registry
        app_label = "django_safe_init"
        managed = False
        db_table = "django_safe_init_run"

    def __str__(self) -> str:
        return f"run {self.pk}"


class Step(models.Model):
    """One migration of a run."""

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(
        Run, models.DO_NOTHING, db_constraint=False, related_name="steps"
    )
    position = models.IntegerField()
    kind = models.TextField()
    name = models.TextField()
    backwards = models.BooleanField(default=False)
    atomic = models.BooleanField(default=True)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    outcome = models.TextField(null=True)
    detail = models.JSONField(null=True)

    class Meta:
        apps = _registry
        app_label = "django_safe_init"
        managed = False
        db_table = "django_safe_init_step"

    def __str__(self) -> str:
        return self.name
