"""Migrate well-known packages and validate them; validation must find nothing.

With `--kill N`, kill the migration of each package N times and continue; schema and rows must be
the same as after plain Django. Creates a virtual environment and downloads the packages.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from example_project.embedded import EmbeddedServer
from tests.resume.engines import Engine, PostgresEngine, SqliteEngine
from tests.support import Database, SqliteDatabase

from .killed import KILLED, WITH_HSTORE
from .kills import KilledPackage
from .known import PACKAGES, Package
from .project import REPOSITORY, Project, ProjectFailed

ENGINES = ("postgresql", "sqlite")
MODES = ("as it is", "non-atomic")


def main() -> int:
    options = parse()
    known = KILLED if options.kill else PACKAGES
    chosen = [each for each in known if options.only in (None, each.name)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        python = install(options.venv or folder / "venv", chosen)
        if options.kill:
            good = kill(chosen, folder, python, options)
        else:
            good = validate(chosen, folder, python)
    return 0 if good else 1


def validate(packages: Sequence[Package], folder: Path, python: Path) -> bool:
    """Validate each package; return True if nothing was found."""
    good = True
    with EmbeddedServer() as server:
        for package in packages:
            good &= show(package, server, folder, python)
    return good


def kill(
    packages: Sequence[Package],
    folder: Path,
    python: Path,
    options: argparse.Namespace,
) -> bool:
    """Kill the migration of each package; return True if none differs from plain Django."""
    good = True
    with EmbeddedServer(WITH_HSTORE) as server:
        engines: list[Engine] = [PostgresEngine(server), SqliteEngine(folder)]
        say(", ".join(each.version() for each in engines))
        for package, engine, non_atomic in product(packages, engines, (False, True)):
            mode = "non-atomic" if non_atomic else "as it is"
            if engine.name in package.without or options.mode not in (None, mode):
                continue
            if options.database not in (None, engine.name):
                continue
            place = folder / package.name / engine.name / mode
            killed = KilledPackage(
                Project(place, python, package, {}),
                engine,
                non_atomic=non_atomic,
                kills=options.kill,
                seed=options.seed,
            )
            good &= show_kills(package, engine, mode, killed)
    return good


def show_kills(
    package: Package, engine: Engine, mode: str, killed: KilledPackage
) -> bool:
    """Print the figures of the package; return True without a fault."""
    figures = killed.play()
    title = f"{package.name:34} {engine.name:10} {mode:10}"
    say(
        f"{title} {figures.migrations:4} migrations ({figures.journaled} with a journal)"
        f" {figures.operations:4} operations {figures.deaths.total():3} kills"
        f" {figures.databases:3} databases {figures.strikes} refused starts"
        f"  {len(figures.faults) or 'no'} differences"
    )
    for fault in figures.faults:
        say(fault)
    return not figures.faults


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.packages", description=__doc__)
    parser.add_argument("--only", metavar="PACKAGE", help="one of them")
    parser.add_argument("--kill", type=int, metavar="N", help="so often, each in turn")
    parser.add_argument("--seed", type=int, default=0, help="chooses the kills")
    parser.add_argument("--database", choices=ENGINES, help="kill only on this engine")
    parser.add_argument("--mode", choices=MODES, help="kill only with these migrations")
    parser.add_argument("--venv", type=Path, help="make it here, or use the one there")
    return parser.parse_args()


def install(folder: Path, packages: Sequence[Package]) -> Path:
    """Return the interpreter of an environment with the packages and this one."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    names = [name for each in packages for name in each.distributions]
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
