"""Print the seconds of a validation in this process, with the number of tables in the argument."""

import gc
import sys
import time
from contextlib import closing

import django
from django.db import connection, models


def add(number: int) -> type[models.Model]:
    """Return a model for an app with migrations, although no migration creates it."""
    fields = {
        "name": models.CharField(max_length=100),
        "slug": models.SlugField(unique=True),
        "amount": models.IntegerField(default=0),
        "created_at": models.DateTimeField(auto_now_add=True),
        "category": models.ForeignKey("app_00.Category", models.CASCADE),
        "owner": models.ForeignKey("auth.User", models.CASCADE, related_name="+"),
    }
    meta = type("Meta", (), {"unique_together": [("name", "category")]})
    names = {**fields, "Meta": meta, "__module__": "app_00.models"}
    return type(f"Extra{number}", (models.Model,), names)


def complete(wanted: int) -> None:
    """Add models until `wanted` exist, and create their tables if they are missing."""
    from django.apps import apps

    managed = [m for m in apps.get_models(include_auto_created=True) if m._meta.managed]
    added = [add(number) for number in range(wanted - len(managed))]
    with connection.schema_editor() as editor:
        if added[0]._meta.db_table not in connection.introspection.table_names():
            for model in added:
                editor.create_model(model)
    connection.close()


def validation(tables: int) -> float:
    """Return the seconds of one validation on an open connection, as the leader has."""
    from django_safe_init.backends import get_backend
    from django_safe_init.backends.base.context import Context
    from django_safe_init.conf import get_settings
    from django_safe_init.core.build import current_build
    from django_safe_init.core.deadline import Deadline
    from django_safe_init.validation import validate

    settings, build = get_settings(), current_build()
    context = Context("default", build, settings, Deadline(0), print)
    introspection = get_backend(context).introspection()
    with closing(introspection):
        gc.collect()  # so that the garbage of the preparation is not part of the figure
        started = time.perf_counter()
        found = validate("default", introspection, build, settings.validate)
        seconds = time.perf_counter() - started
    assert (found.tables, found.findings) == (tables, ()), found
    return seconds


if __name__ == "__main__":
    django.setup()
    complete(int(sys.argv[1]))
    sys.stdout.write(f"{validation(int(sys.argv[1]))}\n")
