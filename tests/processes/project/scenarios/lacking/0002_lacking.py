from django.db import migrations

import acts
import tables


def wait(apps, schema_editor):
    acts.note("inside")
    acts.wait_for("go")


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [
        tables.run_python(wait),
        migrations.RunSQL("ALTER TABLE shop_product DROP COLUMN name"),
    ]
