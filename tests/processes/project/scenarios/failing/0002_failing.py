from django.db import migrations

import acts
import tables


def fail(apps, schema_editor):
    tables.enter(schema_editor, "failing")
    acts.note("inside")
    acts.wait_for("go")
    raise ValueError("product 7 has no price")


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(fail)]
