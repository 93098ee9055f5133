import threading

from django.db import connection, migrations

import acts
import tables


def work(number, finished):
    """Enter rows until `finished`, and wait inside the database server for each."""
    try:
        while not finished.is_set():
            with connection.schema_editor(atomic=False) as schema_editor:
                tables.enter(schema_editor, f"thread {number}", after=0.2)
            acts.note("entered")
    finally:
        connection.close()


def enter(apps, schema_editor):
    finished = threading.Event()
    threads = [
        threading.Thread(target=work, args=(number, finished)) for number in range(4)
    ]
    for thread in threads:
        thread.start()
    if acts.first_time("threads"):
        acts.wait_for("go")
    tables.enter(schema_editor, "main")
    finished.set()
    for thread in threads:
        thread.join()


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(enter)]
