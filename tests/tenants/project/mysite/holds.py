"""Let migrations of the tests leave a note, and wait until the test allows them."""

import os
import time
from pathlib import Path


def hold(schema_editor, point):
    """Note the process, the point and the schema; wait there in the schema HOLD_SCHEMA."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        schema = cursor.fetchone()[0]
    directory = Path(os.environ["TEST_DIR"])
    with (directory / "notes").open("a") as notes:
        notes.write(f"{os.getpid()} {point} {schema}\n")
    if point != os.environ.get("HOLD_POINT", point):
        return
    while schema in os.environ.get("HOLD_SCHEMA", "").split(","):
        if (directory / "allowed").exists():
            return
        time.sleep(0.02)
