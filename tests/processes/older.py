"""Earlier versions of this package, made from the history of the repository.

The previous layout is a wheel of the commit before the package was divided into rooms. The older
version is the same with the columns left out that the first releases did not have.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support import program

ROOT = Path(__file__).resolve().parents[2]
#: The last commit with the previous layout.
COMMIT = "cba36243354921d55bb3e9aedea8e168c0e369c0"
#: The files of that commit that its wheel is made of.
SOURCES = ("django_safe_init", "pyproject.toml", "README.md", "LICENSE")
#: Coverage of an earlier version's lines is not measured.
UNMEASURED = dict.fromkeys(("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"))

#: The version number of the older version, and the columns it does not have.
VERSION = "0.0.1"
LACKS = {
    "django_safe_init_run": [
        "checks",
        "findings",
        "item_done",
        "item_message",
        "item_total",
        "operation",
        "progress",
        "release",
        "schemas",
        "traceback",
    ],
    "django_safe_init_step": ["backwards", "detail"],
}

_CHANGES = {
    "recorder.py": {
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
        "%(atomic{i})s, %(started{i})s, %(detail{i})s)": (
            "%(atomic{i})s, %(started{i})s)"
        ),
        'f"backwards{i}": self.backwards,': "",
        'f"detail{i}": None if self.detail is None else json.dumps(self.detail),': "",
    },
    "reading.py": {
        'progress=values.get("progress", 0),': "progress=0,",
        'item_done=values.get("item_done"),': "",
        'item_total=values.get("item_total"),': "",
        'item_message=values.get("item_message"),': "",
    },
    "engines/postgresql/marks.py": {
        "name, backwards, detail FROM": "name, false, NULL::jsonb FROM"
    },
    "version.py": {'"0.1.0"': f'"{VERSION}"'},
    "columns.py": {
        '"progress": "integer NOT NULL DEFAULT 0",': "",
        '"item_done": "bigint",': "",
        '"item_total": "bigint",': "",
        '"item_message": "text",': "",
        '"backwards": "boolean NOT NULL DEFAULT false",': "",
        '"detail": "jsonb",': "",
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


def install_previous(folder: Path, repository: Path = ROOT) -> Path:
    """Write the previous layout's package into the folder and return the folder.

    Skips the test where the repository has no history, as in a source distribution. Fails where
    the history ends after the commit.
    """
    _require_commit(repository)
    sources, wheels = folder / "sources", folder / "wheels"
    archive = folder / "sources.zip"
    _git(repository, "archive", f"--output={archive}", COMMIT, *SOURCES)
    ZipFile(archive).extractall(sources)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", wheels]
    environment = {k: v for k, v in os.environ.items() if k not in UNMEASURED}
    subprocess.run(build, cwd=sources, env=environment, check=True, capture_output=True)
    [wheel] = wheels.iterdir()
    ZipFile(wheel).extractall(folder / "installed")
    return folder / "installed"


def install_older(folder: Path) -> Path:
    """Write the older version's package into the folder and return the folder."""
    installed = install_previous(folder)
    for name, changes in _CHANGES.items():
        file = installed / "django_safe_init" / name
        text = file.read_text()
        for present, older in changes.items():
            assert text.count(present) == 1, f"{name}: {present!r}"
            text = text.replace(present, older)
        file.write_text(text)
    return installed


def _require_commit(repository: Path) -> None:
    if not (repository / ".git").exists():
        pytest.skip("the previous layout is in the history, and this is no clone")
    if _git(repository, "cat-file", "-e", f"{COMMIT}^{{commit}}", check=False):
        pytest.fail(
            f"The commit {COMMIT[:7]} with the previous layout is not in this clone. "
            "Fetch the whole history: git fetch --unshallow",
            pytrace=False,
        )


def _git(repository: Path, *arguments: str, check: bool = True) -> int:
    """Run git in a repository of any owner and return its exit code."""
    command = [program("git"), "-c", "safe.directory=*", "-C", str(repository)]
    ended = subprocess.run([*command, *arguments], check=check, capture_output=True)
    return ended.returncode
