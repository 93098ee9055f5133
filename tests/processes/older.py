"""An older version of this package, made of the present one: it lacks some columns.

Its code does not know them, neither in the tables that it makes nor in what it writes and reads.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import django_safe_init
from django_safe_init.core.columns import COLUMNS, RUN_TABLE, STEP_TABLE

VERSION = "0.0.1"
#: What the older version does not know.
UNKNOWN = {
    RUN_TABLE: ["item_done", "item_message", "item_total", "progress"],
    STEP_TABLE: ["backwards", "detail"],
}

_RECORDER = {
    "progress = %(progress)s,": "",
    "progress = $5, message = $6,": "message = $5,",
    "item_done = $7, item_total = $8, item_message = $9,": "",
    "item_done = NULL, item_total = NULL, item_message = NULL,": "",
    "%(message)s, %(item_done)s, %(item_total)s,": "%(message)s",
    "%(item_message)s);": ");",
    "%(total)s, %(progress)s,": "%(total)s,",
    "name, backwards, atomic, started_at, detail)": "name, atomic, started_at)",
    "$3, $4, $5, $6,": "$3, $4, $5,",
    "make_interval(secs => $7), $8)": "make_interval(secs => $6))",
    "%(name{i})s, %(backwards{i})s,": "%(name{i})s,",
    "%(atomic{i})s, %(started{i})s, %(detail{i})s)": "%(atomic{i})s, %(started{i})s)",
    'f"backwards{i}": self.backwards,': "",
    'f"detail{i}": None if self.detail is None else json.dumps(self.detail),': "",
}
_CHANGES = {
    "backends/postgresql/recorder.py": _RECORDER,
    "core/records.py": {
        'progress=values.get("progress", 0),': "progress=0,",
        'item_done=values.get("item_done"),': "",
        'item_total=values.get("item_total"),': "",
        'item_message=values.get("item_message"),': "",
    },
    "backends/postgresql/marks.py": {
        "name, backwards, detail FROM": "name, false, NULL::jsonb FROM"
    },
    "version.py": {f'"{django_safe_init.__version__}"': f'"{VERSION}"'},
    "core/columns.py": {
        f'"{name}": "{COLUMNS[table][name]}",': ""
        for table, names in UNKNOWN.items()
        for name in names
    },
    "models.py": {
        "    progress = models.IntegerField(default=0)\n": "",
        "    item_done = models.BigIntegerField(null=True)\n": "",
        "    item_total = models.BigIntegerField(null=True)\n": "",
        "    item_message = models.TextField(null=True)\n": "",
        "    backwards = models.BooleanField(default=False)\n": "",
        "    detail = models.JSONField(null=True)\n": "",
    },
}


def install(folder: Path) -> Path:
    """Write the older version's package into the folder, which is to be on `sys.path`."""
    package = folder / "django_safe_init"
    source = Path(django_safe_init.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in _CHANGES.items():
        text = (package / name).read_text()
        for present, older in changes.items():
            assert text.count(present) == 1, f"{name} has changed: {present!r}"
            text = text.replace(present, older)
        (package / name).write_text(text)
    return folder
