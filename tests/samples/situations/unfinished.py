"""A non-atomic migration whose process dies in the middle of it."""

import os
import signal

from django.db import migrations


def fill(apps, schema_editor):
    apps.get_model("shop", "Product").objects.create(name="half")
    if not os.environ.get("SURVIVE"):
        os.kill(os.getpid(), signal.SIGKILL)


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("shop", "0002_price")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
