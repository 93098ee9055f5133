"""A web server whose role may only read and write rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from example_project.embedded import EmbeddedServer
from tests.processes.harness import Fleet, exit_codes
from tests.serving.harness import STATUS
from tests.support import Database

ADMINISTRATOR = ["safe_migrate", "--phase", "privileged", "--json"]
SECRET = "open sesame, said the forty"
_numbers = count(1)


@pytest.fixture
def role(fleet: Fleet, database: Database, server: EmbeddedServer) -> Iterator[str]:
    """The name of the serving role, which the administrator's phase creates."""
    name = f"serving_{next(_numbers)}"
    admin = Database("postgres", server.params())
    fleet.use(
        scenario="gated",
        role=name,
        databases={"admin": admin},
        safe_init={"PRIVILEGED_DATABASE": "admin"},
        secret=SECRET,
    )
    yield name
    fleet.end()
    database.rows(f"DROP OWNED BY {name}")
    admin.rows(f"DROP ROLE {name}")
    admin.close()


def test_with_privileges_on_rows(
    fleet: Fleet, database: Database, serve: Any, role: str
) -> None:
    """The web server has the right status from start to end, and serves."""
    refused = fleet.run("safe_migrate", "--json")
    assert refused.wait() == 2
    assert "--phase privileged" in refused.json["error"]
    assert exit_codes(fleet.start_together(*[ADMINISTRATOR] * 4)) == [0] * 4, fleet

    server = serve(database_settings={"USER": role})
    server.wait_for(lambda answer: answer.json["state"] == "uninitialized")
    leader = fleet.start("safe_migrate")
    fleet.wait_for_note("inside")
    server.wait_for(lambda answer: answer.json["state"] == "migrating")
    assert server.get("/entries/").status == 503
    fleet.allow()
    assert leader.wait() == 0, leader
    server.wait_until_ready()
    assert server.get(STATUS).json["state"] == "ready"
    assert server.get("/entries/").json == {"entries": ["gate", "data"]}
    may = "SELECT has_table_privilege(%s, 'django_safe_init_run', %s)"
    assert database.value(may, role, "SELECT")
    assert not database.value(may, role, "INSERT")


def test_no_process_shows_the_secret(fleet: Fleet, role: str) -> None:
    """The secret is in no output and no command line."""
    # A program that is forked has the command line of the process that it was forked from.
    administrator = fleet.start(*ADMINISTRATOR, wrapper=["env"])
    lines = set()
    while not administrator.ended:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                lines.add((folder / "cmdline").read_bytes())
            except OSError:
                continue
    assert administrator.wait() == 0, administrator
    shown = str(lines) + administrator.stdout + administrator.stderr
    assert "--phase" in shown
    assert "sesame" not in shown
