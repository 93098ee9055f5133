"""The `manage.py` of the scenarios, which the environment configures."""

import os
import sys
from contextlib import suppress

import django.core.management.commands.migrate
from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line

with suppress(ImproperlyConfigured):  # without psycopg
    import django.db.backends.postgresql.base  # noqa: F401


def wait_at_the_barrier() -> None:
    """Report that the process is loaded, and wait until the harness closes its end of the pipe."""
    barrier = os.environ.pop("SCENARIO_BARRIER", "")
    if barrier:
        arrived, go = map(int, barrier.split(","))
        os.write(arrived, b".")
        os.close(arrived)
        os.read(go, 1)
        os.close(go)


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    wait_at_the_barrier()
    execute_from_command_line(sys.argv)
