"""Read-only models of the two tables, which `recorder` creates and writes: never migrations.

A project's tests, `makemigrations` and `migrate` leave them alone (`managed = False`).
"""

from __future__ import annotations

from django.db import models

from django_safe_init.states import State


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

    class Meta:
        managed = False
        db_table = "django_safe_init_run"
        default_permissions = ("view",)

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
        managed = False
        db_table = "django_safe_init_step"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.name
