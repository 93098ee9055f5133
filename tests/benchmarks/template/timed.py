"""Run a management command and print how long it took after `django.setup()`."""

import sys
import time

import django
from django.core.management import execute_from_command_line

if __name__ == "__main__":
    django.setup()
    started = time.perf_counter()
    try:
        execute_from_command_line(["manage.py", *sys.argv[1:]])
    finally:
        sys.stdout.write(f"\n{time.perf_counter() - started}\n")
