"""The `manage.py` of the scenarios; everything it reads comes from the environment."""

import os
import sys

import django.core.management.commands.migrate
import django.db.backends.postgresql.base  # noqa: F401
from django.core.management import execute_from_command_line


def wait_at_the_barrier() -> None:
    """Say "loaded", and go on when the harness closes its end of the pipe."""
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
