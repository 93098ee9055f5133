from django.db import migrations

import acts
import tables


def enter(apps, schema_editor):
    alias = schema_editor.connection.alias
    tables.enter(schema_editor, alias)
    if alias == acts.chosen("FAILS"):
        raise ValueError("no")


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(enter)]
