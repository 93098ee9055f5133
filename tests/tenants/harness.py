"""A project with a schema for each tenant, whose processes the harness starts and kills."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from psycopg import sql

from tests.processes.harness import Replica
from tests.support import PATIENCE, Database, wait_until

T = TypeVar("T")
PROJECT = Path(__file__).parent / "project"
PACKAGES = ("django_tenants", "django_pgschemas")


def quoted(name: str) -> str:
    """Return the name as an identifier of SQL, in a statement without parameters."""
    return sql.Identifier(name).as_string(None)


class TenantProject:
    """A copy of the project of these tests, to which a test adds migrations as text.

    `use()` sets variables of the environment for all processes. `SAFE_INIT` is a keyword:
    `use(safe_init={...})`. The other keywords are the variables themselves.
    """

    def __init__(self, database: Database, directory: Path, package: str) -> None:
        self.database = database
        self.directory = directory
        self.package = package
        self.root = directory / "project"
        shutil.copytree(
            PROJECT, self.root, ignore=shutil.ignore_patterns("__pycache__")
        )
        self.replicas: list[Replica] = []
        #: True if the test expects a traceback outside of the log.
        self.tracebacks = False
        self._variables: dict[str, str] = {}

    # The project

    def add_migration(
        self,
        name: str,
        operations: str,
        *,
        after: str = "0005_box_color",
        app: str = "stock",
        body: str = "",
        atomic: bool = True,
    ) -> None:
        """Write a migration; `body` comes before its class, with `migrations` and `hold`."""
        folder = {"customers": f"migrations_of_{self.package}"}.get(app, "migrations")
        text = (
            "from django.db import migrations, models\n"
            "from mysite.holds import hold\n"
            f"{body}\n"
            "class Migration(migrations.Migration):\n"
            f"    atomic = {atomic}\n"
            f"    dependencies = [({app!r}, {after!r})]\n"
            f"    operations = [{operations}]\n"
        )
        (self.root / app / folder / f"{name}.py").write_text(text)

    def remove_migration(self, name: str) -> None:
        (self.root / "stock/migrations" / f"{name}.py").unlink()

    def append(self, file: str, text: str) -> None:
        """Append text to a file of the project, such as `mysite/settings.py`."""
        with (self.root / file).open("a") as opened:
            opened.write(text)

    @property
    def shared(self) -> str:
        return self._variables.get("PUBLIC_SCHEMA", "public")

    # Processes

    def use(self, safe_init: dict[str, Any] | None = None, **variables: str) -> None:
        self._variables.update(variables)
        if safe_init is not None:
            self._variables["SAFE_INIT_SETTINGS"] = json.dumps(safe_init)

    def environment(self, **variables: str) -> dict[str, str]:
        parameters = self.database.parameters
        return {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "always::ResourceWarning",
            "DJANGO_SETTINGS_MODULE": "mysite.settings",
            "TENANT_PACKAGE": self.package,
            "PGHOST": str(parameters["host"]),
            "PGPORT": str(parameters.get("port", "")),
            "PGUSER": str(parameters["user"]),
            "PGDATABASE": self.database.name,
            "TEST_DIR": str(self.directory),
            **self._variables,
            **variables,
        }

    def start(self, *arguments: str, **variables: str) -> Replica:
        """Start `manage.py ARGUMENTS`."""
        command = [sys.executable, str(self.root / "manage.py"), *arguments]
        output = self.directory / f"replica-{len(self.replicas)}"
        replica = Replica(command, self.environment(**variables), output)
        self.replicas.append(replica)
        return replica

    def run(self, *arguments: str, code: int | None = 0, **variables: str) -> Replica:
        """Start `manage.py`, wait for its end, and require the exit code."""
        replica = self.start(*arguments, **variables)
        ended = replica.wait()
        assert code is None or ended == code, replica
        return replica

    def python(self, text: str, **variables: str) -> Replica:
        """Run Python in `manage.py shell`."""
        return self.run("shell", "-v", "0", "-c", text, **variables)

    def end(self) -> None:
        for replica in self.replicas:
            replica.end()

    def wait_until(self, condition: Callable[[], T], what: str) -> T:
        """Return the value of `condition` once it is true. Fail if every process has ended."""

        def check() -> T | None:
            alive = not all(replica.ended for replica in self.replicas)
            value = condition()
            assert value or alive, f"{what}: no process is left of\n{self}"
            return value

        return wait_until(check, PATIENCE, lambda: f"{what}, of\n{self}")

    def leader(self) -> Replica:
        """Return the process that leads the newest run."""
        pid = self.database.leader_pid()
        return next(each for each in self.replicas if each.pid == pid)

    def wait_for_followers(self, count: int) -> None:
        self.wait_until(
            lambda: (
                sum("waiting for" in each.stderr for each in self.replicas) >= count
            ),
            f"{count} followers",
        )

    # Notes of migrations, and the file that they wait for

    def allow(self) -> None:
        (self.directory / "allowed").touch()

    def notes(self, prefix: str = "") -> list[tuple[int, str]]:
        """Return the pid and `POINT SCHEMA` of each note whose text begins with the prefix."""
        file = self.directory / "notes"
        lines = file.read_text().splitlines() if file.exists() else []
        pairs = [line.split(" ", 1) for line in lines]
        return [(int(pid), text) for pid, text in pairs if text.startswith(prefix)]

    def wait_for_note(self, prefix: str, count: int = 1) -> list[tuple[int, str]]:
        return self.wait_until(
            lambda: found if len(found := self.notes(prefix)) >= count else [],
            f"{count} notes {prefix!r}",
        )

    # The database

    def add_tenants(self, *names: str, schemas: bool = True) -> None:
        """Create tenants without their migrations: the row, and an empty schema."""
        for name in names:
            self.database.rows(
                f"INSERT INTO {quoted(self.shared)}.customers_customer"
                " (schema_name, name, size) VALUES (%s, %s, 0)",
                name,
                name,
            )
            if schemas:
                self.database.rows(f"CREATE SCHEMA {quoted(name)}")

    @property
    def static(self) -> list[str]:
        """The tenants of the settings."""
        return ["www"] if self.package == "django_pgschemas" else []

    def records(self, schema: str) -> Counter[str]:
        """Return how often each migration is recorded in the schema."""
        rows = self.database.rows(
            f"SELECT app || '.' || name AS name FROM {quoted(schema)}.django_migrations"
        )
        return Counter(row["name"] for row in rows)

    def assert_complete(self, schemas: Iterable[str], *names: str) -> None:
        """Assert that the schemas have the records of the shared one, each once, and names."""
        wanted = set(self.records(self.shared)) | set(names)
        for schema in schemas:
            counts = self.records(schema)
            assert set(counts) == wanted, (schema, wanted ^ set(counts))
            assert set(counts.values()) == {1}, (schema, counts)

    def labels(self, schema: str) -> list[str]:
        """Return the labels of the boxes of a tenant, by id."""
        rows = self.database.rows(
            f"SELECT label FROM {quoted(schema)}.stock_box ORDER BY id"
        )
        return [row["label"] for row in rows]

    def schema_rows(self, run: int | None = None) -> dict[str, dict[str, Any]]:
        """Return the rows of a run's schemas, by schema; by default of the newest run."""
        number = self.database.newest_run()["id"] if run is None else run
        table = f"{quoted(self.shared)}.django_safe_init_schema"
        rows = self.database.rows(f"SELECT * FROM {table} WHERE run_id = %s", number)
        return {row["schema"]: row for row in rows}

    def descendants(self, replica: Replica) -> list[int]:
        """Return the living processes that the process has forked."""
        return children_of(replica.pid)

    def __repr__(self) -> str:
        return "\n".join(str(replica) for replica in self.replicas)


def children_of(pid: int) -> list[int]:
    """Return the children of the process that have not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def is_alive(pid: int) -> bool:
    """Return True if the process runs."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
