import subprocess
from contextlib import suppress

from django.db import migrations

import tables


def write(apps, schema_editor):
    program = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    program.wait()
    try:
        program.stdin.write(b"x" * 100_000)
        program.stdin.flush()
    finally:
        with suppress(BrokenPipeError):
            program.stdin.close()


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(write)]
