"""A migration that runs for a minute, or until a file appears."""

import os
import time
from pathlib import Path

from django.db import migrations


def hold(apps, schema_editor):
    gate = os.environ.get("BENCHMARK_GATE")
    if gate is None:
        schema_editor.execute("SELECT pg_sleep(60)")
        return
    while not Path(gate).exists():
        time.sleep(0.02)


class Migration(migrations.Migration):
    operations = [migrations.RunPython(hold, migrations.RunPython.noop)]
