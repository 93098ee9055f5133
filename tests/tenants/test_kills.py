"""A successor finishes what a killed leader has begun, and each migration runs once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.processes.harness import Replica, exit_codes
from tests.support import wait_until
from tests.tenants.harness import TenantProject, is_alive

SCHEMAS = [f"t{number:02}" for number in range(20)]
INSERT = """
def insert(apps, schema_editor):
    hold(schema_editor, "before")
    apps.get_model("stock", "Box").objects.create(label="second")
    hold(schema_editor, "after")

"""
PYTHON = "migrations.RunPython(insert, migrations.RunPython.noop)"
FIELD = 'migrations.AddField("box", "size", models.IntegerField(default=0))'
#: Sleeps in the schemas that the table names.
SLEEP = (
    "migrations.RunSQL('SELECT pg_sleep(3600) FROM public.gate"
    " WHERE name = current_schema()')"
)
MANY = "migrations.RunSQL(\"INSERT INTO stock_box (label, weight, color) VALUES ('third', 0, '')\")"


def prepare(project: TenantProject) -> None:
    """Initialize twenty tenants."""
    project.run("safe_migrate")
    project.add_tenants(*SCHEMAS)
    project.run("safe_migrate")


def add_migrations(project: TenantProject, *, atomic: bool = True) -> None:
    """Add a data migration, one that is a field, and one that is an insert in SQL."""
    project.add_migration("0006_python", PYTHON, body=INSERT, atomic=atomic)
    project.add_migration("0007_sql", f"{SLEEP}, {MANY}", after="0006_python")
    project.add_migration("0008_size", FIELD, after="0007_sql")


def assert_once(project: TenantProject) -> None:
    """Assert that each tenant has the new migrations, and the rows of two, exactly once."""
    project.assert_complete([*SCHEMAS, *project.static], "stock.0008_size")
    for name in SCHEMAS:
        assert project.labels(name)[1:] == ["second", "third"], name
    assert project.database.newest_run()["outcome"] == "ready"
    rows = project.schema_rows()
    assert {row["state"] for row in rows.values()} <= {"done"}, rows


def start(project: TenantProject, jobs: str, count: int = 4) -> list[Replica]:
    replicas = [project.start("safe_migrate", "--jobs", jobs) for _ in range(count)]
    project.wait_for_followers(count - 1)
    return replicas


def sessions(project: TenantProject) -> set[int]:
    """Return the sessions of the leader and its workers."""
    found = project.database.backends("application_name NOT LIKE 'safe_init waiting%'")
    return {row["pid"] for row in found}


def kill(project: TenantProject, pid: int, children: list[int]) -> None:
    """Kill the leader; its workers end with it."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, children)), message="a worker is left")


@pytest.fixture(params=["1", "2"], ids=["serial", "forked"])
def jobs(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.smoke
@pytest.mark.parametrize("point", ["before", "after"])
def test_leader_killed_in_python(project: TenantProject, jobs: str, point: str) -> None:
    """A leader killed in the Python of one of twenty schemas is succeeded.

    No session of the dead leader is left when its successor migrates.
    """
    project.use(HOLD_SCHEMA="t07", HOLD_POINT=point)
    prepare(project)
    project.database.rows("CREATE TABLE public.gate (name text)")
    add_migrations(project)
    replicas = start(project, jobs)
    project.wait_for_note(f"{point} t07")
    leader, before = project.leader(), sessions(project)
    children = project.descendants(leader)
    assert len(children) == (0 if jobs == "1" else 2)
    kill(project, leader.pid, children)
    project.wait_for_note(f"{point} t07", 2)
    assert not before & sessions(project)
    project.allow()
    codes = exit_codes(replicas)
    assert sorted(codes) == [0, 0, 0, 137], project
    assert_once(project)


def test_leader_killed_in_sql(project: TenantProject, jobs: str) -> None:
    """A statement that a dead leader has left running is ended before its successor works."""
    prepare(project)
    project.database.rows("CREATE TABLE public.gate (name text)")
    project.database.rows("INSERT INTO public.gate VALUES ('t11')")
    add_migrations(project)
    replicas = start(project, jobs)
    asleep: Callable[[], list[int]] = lambda: [  # noqa: E731
        row["pid"] for row in project.database.backends("wait_event = 'PgSleep'")
    ]
    [first] = project.wait_until(asleep, "a statement that sleeps")
    leader = project.leader()
    kill(project, leader.pid, project.descendants(leader))
    project.wait_until(
        lambda: (pids := asleep()) and first not in pids, "the successor's statement"
    )
    project.database.rows("DELETE FROM public.gate")
    project.database.rows(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        " AND datname = current_database()"
    )
    project.wait_until(lambda: leader.ended, "the end of the leader")
    exit_codes(replicas)
    project.run("safe_migrate")  # the cancelled schema had failed
    assert_once(project)


def test_leader_killed_between_schemas(project: TenantProject, jobs: str) -> None:
    """A leader killed after a schema's last commit, before its row, does not repeat it."""
    prepare(project)
    project.database.rows("CREATE TABLE public.gate (name text)")
    add_migrations(project)
    project.use(HOLD_SCHEMA="t05")
    replicas = start(project, jobs)
    project.wait_for_note("before t05")
    leader = project.leader()
    with project.database.connect() as other:
        other.execute(
            "BEGIN; SELECT FROM django_safe_init_schema"
            f" WHERE schema = 't05' AND run_id = {project.database.newest_run()['id']}"
            " FOR UPDATE"
        )
        project.allow()
        project.wait_until(
            lambda: "stock.0008_size" in project.records("t05"), "the last migration"
        )
        blocked = "wait_event_type = 'Lock' AND query LIKE '%django_safe_init_schema%'"
        project.wait_until(lambda: project.database.backends(blocked), "its row")
        kill(project, leader.pid, project.descendants(leader))
        # The dead leader's session waits for the row, and a successor ends it.
        project.wait_until(
            lambda: project.database.leader_pid() != leader.pid, "a successor"
        )
    assert sorted(exit_codes(replicas)) == [0, 0, 0, 137], project
    assert_once(project)
    assert len(project.notes("before t05")) == 1


def test_leaders_killed_again_and_again(project: TenantProject, jobs: str) -> None:
    """Each of several leaders is killed, and each goes on where the one before it was."""
    prepare(project)
    project.database.rows("CREATE TABLE public.gate (name text)")
    add_migrations(project)
    for count in (1, 8, 19, 30):
        replica = project.start("safe_migrate", "--jobs", jobs)
        project.wait_until(
            lambda count=count: len(project.notes()) >= count, f"{count} notes"
        )
        children = project.descendants(replica)
        kill(project, replica.pid, children)
    project.run("safe_migrate", "--jobs", jobs)
    project.assert_complete([*SCHEMAS, *project.static], "stock.0008_size")
    for name in SCHEMAS:
        assert project.labels(name)[1:] == ["second", "third"], name


@pytest.mark.smoke
def test_child_killed(project: TenantProject) -> None:
    """The schema of a killed worker is migrated by another one, exactly once."""
    prepare(project)
    project.database.rows("CREATE TABLE public.gate (name text)")
    add_migrations(project)
    project.use(HOLD_SCHEMA="t07", HOLD_POINT="after")
    replicas = start(project, "2")
    [(child, _)] = project.wait_for_note("after t07")
    leader = project.leader()
    assert child in project.descendants(leader)
    os.kill(child, signal.SIGKILL)
    [_, (other, _)] = project.wait_for_note("after t07", 2)
    assert other != child
    project.allow()
    assert exit_codes(replicas) == [0, 0, 0, 0], project
    assert_once(project)


def test_children_killed_in_one_schema(project: TenantProject) -> None:
    """A schema in which three workers die has failed; the others are done."""
    prepare(project)
    project.database.rows("CREATE TABLE public.gate (name text)")
    add_migrations(project)
    project.use(HOLD_SCHEMA="t07", HOLD_POINT="after")
    replica = project.start("safe_migrate", "--jobs", "2")
    for count in (1, 2, 3):
        notes = project.wait_for_note("after t07", count)
        os.kill(notes[-1][0], signal.SIGKILL)
    assert replica.wait() == 1, project
    assert "t07: 3 processes died while they migrated the schema" in replica.stderr
    rows = project.schema_rows()
    assert {row["state"] for name, row in rows.items() if name != "t07"} == {"done"}
    assert rows["t07"]["state"] == "failed"
    project.allow()
    project.run("safe_migrate", "--jobs", "2")
    assert_once(project)


def test_interrupted_leader(project: TenantProject, jobs: str) -> None:
    """SIGTERM ends the leader and its workers; the next start does what is left."""
    prepare(project)
    project.database.rows("CREATE TABLE public.gate (name text)")
    add_migrations(project)
    project.use(HOLD_SCHEMA="t07")
    replica = project.start("safe_migrate", "--jobs", jobs)
    project.wait_for_note("before t07")
    children = project.descendants(replica)
    replica.kill(signal.SIGTERM)
    assert replica.wait() == 143, project
    assert not any(map(is_alive, children))
    assert project.database.newest_run()["outcome"] == "interrupted"
    project.allow()
    project.run("safe_migrate", "--jobs", jobs)
    assert_once(project)


# Migrations that are not atomic

STEPS = (
    'migrations.AddField("box", "depth", models.IntegerField(default=0)), '
    f"{PYTHON.replace('noop)', 'noop, atomic=True)')}, "
    'migrations.AddField("box", "height", models.IntegerField(default=0))'
)


@pytest.mark.smoke
def test_journal_of_a_tenant(project: TenantProject, jobs: str) -> None:
    """A half-done migration of a tenant goes on with the operation that was cut off."""
    prepare(project)
    project.add_migration("0006_steps", STEPS, body=INSERT, atomic=False)
    project.use(HOLD_SCHEMA="t07", HOLD_POINT="after")
    replicas = start(project, jobs)
    project.wait_for_note("after t07")
    leader = project.leader()
    kill(project, leader.pid, project.descendants(leader))
    project.wait_for_note("after t07", 2)
    project.allow()
    assert sorted(exit_codes(replicas)) == [0, 0, 0, 137], project
    project.assert_complete([*SCHEMAS, *project.static], "stock.0006_steps")
    for name in SCHEMAS:
        assert project.labels(name)[1:] == ["second"], name
    assert not project.database.rows("SELECT * FROM django_safe_init_operation")


@pytest.mark.smoke
def test_child_killed_in_a_journal(project: TenantProject) -> None:
    """The worker that takes the schema of a killed one goes on in its journal."""
    prepare(project)
    project.add_migration("0006_steps", STEPS, body=INSERT, atomic=False)
    project.use(HOLD_SCHEMA="t07", HOLD_POINT="after")
    replica = project.start("safe_migrate", "--jobs", "2")
    [(child, _)] = project.wait_for_note("after t07")
    os.kill(child, signal.SIGKILL)
    project.wait_for_note("after t07", 2)
    project.allow()
    assert replica.wait() == 0, replica
    project.assert_complete([*SCHEMAS, *project.static], "stock.0006_steps")
    for name in SCHEMAS:
        assert project.labels(name)[1:] == ["second"], name


COLUMNS = (
    "SELECT count(*) FROM information_schema.columns WHERE table_schema = 't07'"
    " AND table_name = 'stock_box' AND column_name IN ('height', 'depth')"
)


def test_half_done_schema_dropped(project: TenantProject, jobs: str) -> None:
    """The journal of a schema that was dropped is not used for the next one of its name."""
    prepare(project)
    project.add_migration("0006_steps", STEPS, body=INSERT, atomic=False)
    project.use(HOLD_SCHEMA="t07")
    replica = project.start("safe_migrate", "--jobs", jobs)
    project.wait_for_note("before t07")
    kill(project, replica.pid, project.descendants(replica))
    project.wait_until(lambda: not project.database.backends(), "the sessions' end")
    assert project.database.value(COLUMNS) == 1
    project.database.rows("DROP SCHEMA t07 CASCADE")
    project.database.rows("CREATE SCHEMA t07")
    project.allow()
    project.run("safe_migrate", "--jobs", jobs)
    project.assert_complete([*SCHEMAS, *project.static], "stock.0006_steps")
    assert project.database.value(COLUMNS) == 2
    assert project.labels("t07")[1:] == ["second"]


def test_child_killed_in_sql(project: TenantProject) -> None:
    """The statement of a killed worker is ended before the schema is done again."""
    prepare(project)
    project.database.rows("CREATE TABLE public.gate (name text)")
    project.database.rows("INSERT INTO public.gate VALUES ('t11')")
    add_migrations(project)
    replica = project.start("safe_migrate", "--jobs", "2")
    asleep = "wait_event = 'PgSleep'"
    project.wait_until(
        lambda: project.database.backends(asleep), "a statement that sleeps"
    )
    children = {pid for pid, _ in project.wait_for_note("after", 12)}
    for child in children & set(project.descendants(replica)):
        os.kill(child, signal.SIGKILL)
    project.database.rows("DELETE FROM public.gate")
    assert replica.wait() == 0, project
    assert_once(project)


def test_reversal_killed(project: TenantProject) -> None:
    """A half-undone migration of one tenant is applied again by the next start."""
    prepare(project)
    project.add_migration("0006_steps", STEPS, body=INSERT, atomic=False)
    undo = project.root / "stock/migrations/0006_steps.py"
    undo.write_text(undo.read_text().replace("migrations.RunPython.noop", "insert"))
    project.run("safe_migrate")
    project.use(HOLD_SCHEMA="t07")
    backwards = project.start("migrate", "stock", "0005", "--schema", "t07")
    project.wait_for_note("before t07", 2)
    kill(project, backwards.pid, [])
    assert project.database.value(COLUMNS) == 1
    project.allow()
    project.run("safe_migrate")
    assert project.database.value(COLUMNS) == 2
    project.assert_complete([*SCHEMAS, *project.static], "stock.0006_steps")


UNKNOWN = """
def insert(apps, schema_editor):
    hold(schema_editor, "before")

"""


def test_report_names_the_schema(project: TenantProject) -> None:
    """With UNFINISHED "report" the error names the schema, and its commands work."""
    project.use(safe_init={"UNFINISHED": "report"})
    prepare(project)
    steps = STEPS.replace("atomic=True", "atomic=False")
    project.add_migration("0006_steps", steps, body=INSERT, atomic=False)
    for name in ("t03", "t07", "t08"):
        replica = project.start("safe_migrate", HOLD_SCHEMA=name, HOLD_POINT="after")
        project.wait_for_note(f"after {name}")
        kill(project, replica.pid, [])
    failed = project.run("safe_migrate", code=1)
    assert "safe_migrate --schema t03 --resume stock.0006_steps:2" in failed.stderr
    assert "safe_migrate --schema t07 --resume stock.0006_steps:2" in failed.stderr
    assert "migrate --schema t08 --fake stock 0006_steps" in failed.stderr
    rows = project.schema_rows()
    assert {name for name, row in rows.items() if row["state"] != "done"} == {
        "t03",
        "t07",
        "t08",
    }
    project.run("safe_migrate", "--schema", "t03", "--resume", "stock.0006_steps:3")
    assert project.labels("t03")[1:] == ["second"]
    project.run("safe_migrate", "--schema", "t07", "--resume", "stock.0006_steps:2")
    assert project.labels("t07")[1:] == ["second", "second"]
    project.run("migrate", "--schema", "t08", "--fake", "stock", "0006_steps")
    project.run("safe_migrate")
    project.assert_complete([*SCHEMAS, *project.static], "stock.0006_steps")
    assert project.database.newest_run()["outcome"] == "ready"


INDEX = """
from django.contrib.postgres.operations import AddIndexConcurrently
"""


def test_concurrent_index(project: TenantProject, jobs: str) -> None:
    """An index that a killed leader has left invalid in a tenant's schema is made again."""
    prepare(project)
    project.add_migration(
        "0006_index",
        'AddIndexConcurrently("box", models.Index(fields=["label"], name="box_label"))',
        body=INDEX,
        atomic=False,
    )
    with project.database.connect() as other:
        # The index waits for this transaction, which has changed the table.
        other.execute("BEGIN; UPDATE t09.stock_box SET weight = 1")
        replica = project.start("safe_migrate", "--jobs", jobs)
        waiting = "query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'"
        project.wait_until(lambda: project.database.backends(waiting), "the index")
        kill(project, replica.pid, project.descendants(replica))
    project.run("safe_migrate", "--jobs", jobs)
    project.assert_complete([*SCHEMAS, *project.static], "stock.0006_index")
    rows = project.database.rows(
        "SELECT nspname FROM pg_index JOIN pg_class c ON c.oid = indexrelid"
        " JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE relname LIKE 'box_label%' AND indisvalid ORDER BY 1"
    )
    assert [row["nspname"] for row in rows] == [*SCHEMAS, *project.static]
