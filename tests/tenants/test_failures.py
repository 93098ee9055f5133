"""One failing schema does not stop the others, and the run names it with its error."""

from __future__ import annotations

import pytest

from tests.processes.harness import exit_codes
from tests.tenants.harness import TenantProject

SCHEMAS = [f"t{number}" for number in range(8)]
#: Fails in the schemas that the table names.
FAIL = """
def fail(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        schema = cursor.fetchone()[0]
        cursor.execute("SELECT message FROM public.fault WHERE name = %s", [schema])
        for (message,) in cursor.fetchall():
            raise ValueError(message.format(schema))
    hold(schema_editor, "passed")
    apps.get_model("stock", "Box").objects.create(label="second")

"""
PYTHON = "migrations.RunPython(fail, migrations.RunPython.noop)"
#: In the statement of one tenant: a column that another program has made before.
FIELD = 'migrations.AddField("box", "size", models.IntegerField(default=0))'


def prepare(project: TenantProject, **faults: str) -> None:
    """Initialize eight tenants, and let a new migration fail in some of them."""
    project.run("safe_migrate")
    project.add_tenants(*SCHEMAS)
    project.run("safe_migrate")
    project.database.rows("CREATE TABLE public.fault (name text, message text)")
    for name, message in faults.items():
        project.database.rows("INSERT INTO public.fault VALUES (%s, %s)", name, message)
    project.add_migration("0006_python", PYTHON, body=FAIL)
    project.add_migration("0007_size", FIELD, after="0006_python")


def states(project: TenantProject) -> dict[str, list[str]]:
    """Return the schemas of the newest run by state."""
    found: dict[str, list[str]] = {}
    for name, row in sorted(project.schema_rows().items()):
        found.setdefault(row["state"], []).append(name)
    return found


@pytest.mark.smoke
def test_one_fails(project: TenantProject, jobs: str) -> None:
    """The others are done; the command exits with 1 and names the schema with its error."""
    prepare(project, t2="no coal in {}")
    failed = project.run("safe_migrate", "--jobs", jobs, code=1)
    assert "1 of" in failed.stderr
    assert "t2: stock.0006_python: ValueError: no coal in t2" in failed.stderr
    assert failed.stderr.count("Traceback (most recent call last)") == 1, failed
    assert "in fail\n" in failed.stderr
    assert "SchemasFailed" not in failed.stderr
    assert states(project)["failed"] == ["t2"]
    row = project.schema_rows()["t2"]
    assert row["migration"] == "stock.0006_python"
    assert "no coal in t2" in row["error"]
    run = project.database.newest_run()
    assert run["outcome"] == "failed"
    assert "in fail\n" in run["traceback"]
    others = [name for name in SCHEMAS if name != "t2"]
    project.assert_complete([*others, *project.static], "stock.0007_size")

    project.database.rows("DELETE FROM public.fault")
    project.run("safe_migrate", "--jobs", jobs)
    assert states(project) == {"done": ["t2"]}
    assert [project.labels(name)[1:] for name in SCHEMAS] == [["second"]] * 8
    assert project.database.newest_run()["outcome"] == "ready"


def test_followers_learn_it(project: TenantProject) -> None:
    """Followers of a run in which a schema failed end with its reason."""
    prepare(project, t2="no coal in {}")
    project.use(HOLD_SCHEMA="t5")
    replicas = [project.start("safe_migrate") for _ in range(3)]
    project.wait_for_note("passed t5")
    project.wait_for_followers(2)
    project.allow()
    assert exit_codes(replicas) == [1, 1, 1], project
    assert all("no coal in t2" in replica.stderr for replica in replicas)


def test_sql_fails(project: TenantProject, jobs: str) -> None:
    """A replayed statement that fails in one schema is named with its migration."""
    prepare(project)
    project.database.rows("ALTER TABLE t4.stock_box ADD size integer")
    failed = project.run("safe_migrate", "--jobs", jobs, code=1)
    assert 't4: stock.0007_size: ProgrammingError: column "size"' in failed.stderr
    assert states(project)["failed"] == ["t4"]
    assert project.labels("t4")[1:] == ["second"]
    project.database.rows("ALTER TABLE t4.stock_box DROP size")
    project.run("safe_migrate")
    project.assert_complete([*SCHEMAS, *project.static], "stock.0007_size")
    assert project.labels("t4")[1:] == ["second"]


def test_same_error_in_a_row(project: TenantProject, jobs: str) -> None:
    """Five failures in a row with the same error stop the run: the migration is at fault."""
    prepare(project, **dict.fromkeys(SCHEMAS, "no coal in {} 17"))
    failed = project.run("safe_migrate", "--jobs", jobs, code=1)
    assert "5 schemas in a row failed with the same error" in failed.stderr
    assert failed.stderr.count("Traceback (most recent call last)") == 1, failed
    found = states(project)
    assert len(found["failed"]) in (5, 6)  # a second worker has one more
    assert found["pending"]


def test_limit_of_failures(project: TenantProject) -> None:
    """TENANT_FAILURES is the limit, and another error or a success begins the count again."""
    project.use(safe_init={"TENANT_FAILURES": 2})
    prepare(project, t0="a", t1="b", t2="b", t4="a")
    failed = project.run("safe_migrate", code=1)
    assert "2 schemas in a row failed with the same error" in failed.stderr
    assert states(project)["failed"] == ["t0", "t1", "t2"]
    project.database.rows("DELETE FROM public.fault WHERE name = 't1'")
    failed = project.run("safe_migrate", code=1)
    assert "in a row" not in failed.stderr
    assert states(project)["failed"] == ["t0", "t2", "t4"]


def test_stop_at_first(project: TenantProject, jobs: str) -> None:
    """With --stop-at-first no other schema is begun after a failure."""
    prepare(project, t2="no coal in {}")
    failed = project.run("safe_migrate", "--stop-at-first", "--jobs", jobs, code=1)
    assert "--stop-at-first" in failed.stderr
    found = states(project)
    assert found["failed"] == ["t2"]
    assert set(found["pending"]) >= {"t4", "t5", "t6", "t7"}


def test_canary_fails(project: TenantProject, jobs: str) -> None:
    """If one of the canaries fails, no other schema is tried."""
    prepare(project, t1="no coal in {}")
    failed = project.run("safe_migrate", "--canary", "3", "--jobs", jobs, code=1)
    assert "a canary failed" in failed.stderr
    found = states(project)
    assert found["failed"] == ["t1"]
    assert found["done"] == ["t0", "t2"]
    assert "t3" in found["pending"]


def test_canary_fails_again(project: TenantProject) -> None:
    """A restart does not choose another canary: the first schema of the order stays one."""
    prepare(project, t7="no coal in {}")
    project.use(safe_init={"TENANT_ORDER": "-schema_name"})
    for _ in range(2):
        failed = project.run("safe_migrate", "--canary", "1", code=1)
        assert "a canary failed" in failed.stderr
        others = len(SCHEMAS + project.static) - 1
        assert f"{others} schemas were not tried" in failed.stderr
        found = states(project)
        assert (found["failed"], "done" in found) == (["t7"], False)
    project.database.rows("DELETE FROM public.fault")
    project.run("safe_migrate", "--canary", "1")
    project.assert_complete([*SCHEMAS, *project.static], "stock.0007_size")


def test_canary_is_not_replaced(project: TenantProject) -> None:
    """Canaries that succeeded stay canaries, so a failed one lets no other schema pass."""
    prepare(project, t0="no coal in {}")
    for _ in range(3):
        failed = project.run("safe_migrate", "--canary", "3", code=1)
        assert "a canary failed" in failed.stderr
        done = [name for name in SCHEMAS if "stock.0007_size" in project.records(name)]
        assert done == ["t1", "t2"]


def test_canary_succeeds(project: TenantProject) -> None:
    """The others are migrated after the canaries, which come first in the order."""
    prepare(project)
    project.use(safe_init={"TENANT_ORDER": "-schema_name"})
    project.run("safe_migrate", "--canary", "2", HOLD_SCHEMA="")
    project.assert_complete([*SCHEMAS, *project.static], "stock.0007_size")
    assert [text for _, text in project.notes("passed t")][:2] == [
        "passed t7",
        "passed t6",
    ]


DEADLOCK = """
import pathlib, os

def lock(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        schema = cursor.fetchone()[0]
        cursor.execute("UPDATE stock_box SET weight = 1")
        hold(schema_editor, "updated")
        cursor.execute("SET LOCAL deadlock_timeout = '10ms'")
        cursor.execute(
            "UPDATE public.customers_customer SET size = 1 WHERE schema_name = %s",
            [schema],
        )

"""


@pytest.mark.smoke
def test_deadlock(project: TenantProject, jobs: str) -> None:
    """A schema whose migration loses a deadlock is migrated again."""
    prepare(project)
    project.run("safe_migrate")
    project.add_migration(
        "0008_lock", "migrations.RunPython(lock)", after="0007_size", body=DEADLOCK
    )
    replica = project.start("safe_migrate", "--jobs", jobs, HOLD_SCHEMA="t3")
    project.wait_for_note("updated t3")
    with project.database.connect() as other:
        other.execute("BEGIN; SET LOCAL deadlock_timeout = '1h'")
        other.execute("UPDATE customers_customer SET size = 2 WHERE schema_name = 't3'")
        project.allow()
        # The migration waits for the other program, which then waits for the migration.
        other.execute("UPDATE t3.stock_box SET weight = 2")
        other.execute("COMMIT")
    assert replica.wait() == 0, project
    project.assert_complete([*SCHEMAS, *project.static], "stock.0008_lock")
    assert len(project.notes("updated t3")) >= 2


STEPS = (
    'migrations.AddField("box", "depth", models.IntegerField(default=0)), '
    "migrations.RunPython(lock, atomic=True), "
    'migrations.AddField("box", "height", models.IntegerField(default=0))'
)


def test_deadlock_in_a_journal(project: TenantProject, jobs: str) -> None:
    """A non-atomic migration that loses a deadlock goes on with the operation that failed."""
    prepare(project)
    project.run("safe_migrate")
    project.add_migration(
        "0008_lock", STEPS, after="0007_size", body=DEADLOCK, atomic=False
    )
    replica = project.start("safe_migrate", "--jobs", jobs, HOLD_SCHEMA="t3")
    project.wait_for_note("updated t3")
    with project.database.connect() as other:
        other.execute("BEGIN; SET LOCAL deadlock_timeout = '1h'")
        other.execute("UPDATE customers_customer SET size = 2 WHERE schema_name = 't3'")
        project.allow()
        other.execute("UPDATE t3.stock_box SET weight = 2")
        other.execute("COMMIT")
    assert replica.wait() == 0, project
    project.assert_complete([*SCHEMAS, *project.static], "stock.0008_lock")
    assert len(project.notes("updated t3")) >= 2


#: SQL that fails in one schema, and what the error then says.
SQL_OF_T3 = {
    "division": ("SELECT 1 / (current_schema() <> 't3')::int", "division by zero"),
    "lost connection": (
        "SELECT pg_terminate_backend(pg_backend_pid()) WHERE current_schema() = 't3'",
        "terminating connection",
    ),
}


WRONG_SQL = {
    "syntax": ("SELECT nothing FROM FROM", 'syntax error at or near "FROM"'),
    "quote": ("SELECT 'open", "unterminated quoted string"),
    "dynamic": ("DO $$ BEGIN EXECUTE 'SELECT FROM FROM'; END $$", "syntax error"),
}


@pytest.mark.parametrize(("statement", "error"), WRONG_SQL.values(), ids=WRONG_SQL)
def test_wrong_sql_between_other_migrations(
    project: TenantProject, jobs: str, statement: str, error: str
) -> None:
    """Wrong SQL fails by its own name and text, and the migrations before it are done."""
    project.run("safe_migrate")
    project.add_tenants(*SCHEMAS[:2])
    project.run("safe_migrate")
    project.add_migration("0006_size", FIELD)
    project.add_migration(
        "0007_sql", f'migrations.RunSQL("""{statement}""")', after="0006_size"
    )
    project.add_migration(
        "0008_last", 'migrations.RunSQL("SELECT 1")', after="0007_sql"
    )
    failed = project.run("safe_migrate", "--jobs", jobs, code=1)
    line = failed.stderr.splitlines()[-1]
    assert "t0: stock.0007_sql: ProgrammingError: " in line
    assert error in failed.stderr
    assert "INSERT" not in line
    for name in SCHEMAS[:2]:
        records = project.records(name)
        assert records["stock.0006_size"] == 1
        assert "stock.0007_sql" not in records


@pytest.mark.parametrize(("statement", "error"), SQL_OF_T3.values(), ids=SQL_OF_T3)
def test_sql_between_other_migrations(
    project: TenantProject, jobs: str, statement: str, error: str
) -> None:
    """Of several migrations with SQL, those before the failed one are done, and it is named."""
    project.run("safe_migrate")
    project.add_tenants(*SCHEMAS)
    project.run("safe_migrate")
    project.add_migration("0006_size", FIELD)
    project.add_migration(
        "0007_sql", f'migrations.RunSQL("""{statement}""")', after="0006_size"
    )
    project.add_migration(
        "0008_last", 'migrations.RunSQL("SELECT 1")', after="0007_sql"
    )
    failed = project.run("safe_migrate", "--jobs", jobs, code=1)
    line = failed.stderr.splitlines()[-1]
    assert "CommandError: default: 1 of" in line
    assert "t3: stock.0007_sql: " in line
    assert error in line
    assert "stock.0006_size" in project.records("t3")
    assert "stock.0007_sql" not in project.records("t3")
    others = [name for name in SCHEMAS if name != "t3"]
    names = ("stock.0006_size", "stock.0007_sql", "stock.0008_last")
    project.assert_complete([*others, *project.static], *names)
