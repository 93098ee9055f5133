from django.db import close_old_connections, migrations

import acts
import tables


def enter(apps, schema_editor):
    connection = schema_editor.connection
    tables.enter(schema_editor, "before")
    if acts.chosen("CLOSE") == "close":
        connection.close()
    else:
        close_old_connections()
    tables.enter(schema_editor, "after")
    acts.note(f"backend {connection.connection.info.backend_pid}")
    acts.wait_for("go")


class Migration(migrations.Migration):
    atomic = acts.chosen("ATOMIC", "1") == "1"
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(enter)]
