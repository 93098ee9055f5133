"""Migrate well-known packages and validate them; validation must find nothing.

Creates a virtual environment and downloads the packages.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from example_project.embedded import EmbeddedServer
from tests.support import Database, SqliteDatabase

from .known import PACKAGES, Package
from .project import REPOSITORY, Project, ProjectFailed

ENGINES = ("postgresql", "sqlite")


def main() -> int:
    options = parse()
    chosen = [each for each in PACKAGES if options.only in (None, each.name)]
    with tempfile.TemporaryDirectory() as scratch, EmbeddedServer() as server:
        folder = Path(scratch)
        python = install(options.venv or folder / "venv", chosen)
        good = True
        for package in chosen:
            good &= show(package, server, folder, python)
    return 0 if good else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.packages", description=__doc__)
    parser.add_argument("--only", metavar="PACKAGE", help="one of them")
    parser.add_argument("--venv", type=Path, help="make it here, or use the one there")
    return parser.parse_args()


def install(folder: Path, packages: Sequence[Package]) -> Path:
    """Return the interpreter of an environment with the packages and this one."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    names = [name for each in packages for name in (each.name, *each.requires)]
    pip = [python, "-m", "pip", "install", "--quiet", "psycopg[binary]", *names]
    subprocess.run([*pip, "--editable", REPOSITORY], check=True)
    return python


def show(package: Package, server: EmbeddedServer, folder: Path, python: Path) -> bool:
    """Print the findings on each engine; return True if none was found."""
    good = True
    for engine in ENGINES:
        if engine in package.without:
            continue
        place = folder / package.name / engine
        with database(engine, server, place) as settings:
            try:
                found = Project(place, python, package, settings).validate()
            except ProjectFailed as exc:
                say(f"{package.name:34} {engine:11} FAILED: {exc}")
                good = False
                continue
        findings = found["findings"]
        verdict = f"{len(findings)} FINDINGS" if findings else "nothing found"
        say(f"{package.name:34} {engine:11} {found['tables']:4} tables  {verdict}")
        for finding in findings:
            say(f"    {finding['message']}")
        good &= not findings
    return good


@contextmanager
def database(
    engine: str, server: EmbeddedServer, place: Path
) -> Iterator[Mapping[str, Any]]:
    """Yield the Django settings of a new, empty database."""
    if engine == "sqlite":
        yield SqliteDatabase(place / "db.sqlite3").settings()
        return
    server.create_database("package")
    try:
        yield Database("package", server.params()).settings()
    finally:
        server.drop_database("package")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
