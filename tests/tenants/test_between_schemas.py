"""Nothing that one schema's migration does or leaves behind reaches the next schema."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.tenants.harness import TenantProject, quoted

NAMES = ["t0", "t1", "t2"]
NOOP = "migrations.RunPython.noop"


def prepare(project: TenantProject) -> None:
    project.run("safe_migrate")
    project.add_tenants(*NAMES)
    project.run("safe_migrate")


def values(project: TenantProject, column: str) -> dict[str, object]:
    """Return a column of the only box of each tenant."""
    return {
        name: project.database.value(f"SELECT {column} FROM {name}.stock_box")
        for name in NAMES
    }


SQL = {
    "comment first": ("-- blue\\nUPDATE stock_box SET color = 'blue'", "blue"),
    "comment last": ("UPDATE stock_box SET color = 'red' -- red", "red"),
    "comment around": ("/* a */ UPDATE stock_box SET color = 'x;y' /* b */;", "x;y"),
    "percent": ("UPDATE stock_box SET color = '50%'", "50%"),
    "dollars": ("DO $$ BEGIN UPDATE stock_box SET color = 'do'; END $$", "do"),
    "function": (
        "CREATE FUNCTION paint() RETURNS text LANGUAGE sql AS $f$ SELECT 'f;'; $f$;"
        " UPDATE stock_box SET color = paint();",
        "f;",
    ),
}


def test_sql_of_the_project(project: TenantProject, jobs: str) -> None:
    """SQL runs in each schema as Django would run it, with comments and quotes."""
    prepare(project)
    after = "0005_box_color"
    for number, (name, (statement, expected)) in enumerate(SQL.items(), 6):
        migration = f"{number:04}_sql"
        project.add_migration(
            migration, f'migrations.RunSQL("""{statement}""")', after=after
        )
        after = migration
        project.run("safe_migrate", "--jobs", jobs)
        assert values(project, "color") == dict.fromkeys(NAMES, expected), name


SECRET = """
import secrets

def secret():
    return secrets.token_hex(8)

"""


def test_computed_default(project: TenantProject, jobs: str) -> None:
    """A default that Python computes is computed in each schema."""
    prepare(project)
    project.add_migration(
        "0006_secret",
        'migrations.AddField("box", "secret",'
        " models.CharField(default=secret, max_length=16))",
        body=SECRET,
    )
    project.run("safe_migrate", "--jobs", jobs)
    assert len(set(values(project, "secret").values())) == len(NAMES)


ROUTER = """
class Router:
    def allow_migrate(self, db, app_label, model_name=None, **hints):
        from django.db import connections

        with connections[db].cursor() as cursor:
            cursor.execute("SELECT current_schema()")
            schema = cursor.fetchone()[0]
        return schema == "t1" if model_name == "premium" else None

"""
MODEL = (
    'migrations.CreateModel("Premium", [("id", models.BigAutoField(primary_key=True))])'
)


def test_router_of_the_project(project: TenantProject, jobs: str) -> None:
    """A router that decides by the schema is asked in each schema."""
    (project.root / "mysite/routers.py").write_text(ROUTER)
    project.append(
        "mysite/settings.py", 'DATABASE_ROUTERS.insert(0, "mysite.routers.Router")\n'
    )
    prepare(project)
    project.add_migration("0006_premium", MODEL)
    project.run("safe_migrate", "--jobs", jobs)
    present = [
        name for name in NAMES if project.database.has_table(f"{name}.stock_premium")
    ]
    assert present == ["t1"]


OF_ONE_TENANT = """
class Router:
    def allow_migrate(self, db, app_label, **hints):
        from django.db import connections

        with connections[db].cursor() as cursor:
            cursor.execute("SELECT current_schema()")
            [schema] = cursor.fetchone()
        if app_label == "auth":
            return schema in ("public", "t1")

"""


def test_rows_with_a_router_of_the_project(project: TenantProject, jobs: str) -> None:
    """The permissions of a schema do not depend on the schema that was migrated before it."""
    (project.root / "mysite/routers.py").write_text(OF_ONE_TENANT)
    project.append(
        "mysite/settings.py", 'DATABASE_ROUTERS.insert(0, "mysite.routers.Router")\n'
    )
    project.run("safe_migrate")
    count = "SELECT count(*) FROM {}.auth_permission"
    shared = project.database.value(count.format("public"))
    project.add_tenants(*NAMES)
    project.run("safe_migrate", "--jobs", jobs)
    assert project.database.value(count.format("t1")) > 20
    assert project.database.value(count.format("public")) == shared
    assert not project.database.has_table("t0.auth_permission")


LEAVES = {
    "temporary table": "CREATE TEMP TABLE scratch AS SELECT 1 AS one",
    "setting": "SET statement_timeout = '123s'",
    "channel": "LISTEN something",
    "cursor": "DECLARE held CURSOR WITH HOLD FOR SELECT 1",
    "lock": "SELECT pg_advisory_lock(42)",
}
LEAVE = """
def leave(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone()[0] == "0", "the setting of another schema"
        for statement in {statements!r}:
            cursor.execute(statement)

"""


def test_state_of_the_session(project: TenantProject, jobs: str) -> None:
    """Settings, temporary tables, cursors, channels and locks end with their schema."""
    prepare(project)
    body = LEAVE.replace("{statements!r}", repr(list(LEAVES.values())))
    project.add_migration(
        "0006_leave", f"migrations.RunPython(leave, {NOOP})", body=body
    )
    project.run("safe_migrate", "--jobs", jobs)
    project.assert_complete(NAMES, "stock.0006_leave")


ENDS = {
    "terminated": (
        'cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")',
        "terminating connection",
    ),
    "exit": ('raise SystemExit("it gives up")', "it gives up"),
}


@pytest.mark.parametrize("end", ENDS)
def test_migration_that_ends_its_connection(
    project: TenantProject, jobs: str, end: str
) -> None:
    """A migration that ends its connection, or asks to exit, fails only its own schema."""
    prepare(project)
    action, text = ENDS[end]
    body = (
        "def fail(apps, schema_editor):\n"
        "    with schema_editor.connection.cursor() as cursor:\n"
        '        cursor.execute("SELECT current_schema()")\n'
        '        if cursor.fetchone()[0] == "t1":\n'
        f"            {action}\n\n"
    )
    project.add_migration("0006_fail", f"migrations.RunPython(fail, {NOOP})", body=body)
    failed = project.run("safe_migrate", "--jobs", jobs, code=1)
    assert "t1 failed: stock.0006_fail" in failed.stderr, failed
    assert text in failed.stderr, failed
    project.assert_complete(["t0", "t2", *project.static], "stock.0006_fail")
    assert "stock.0006_fail" not in project.records("t1")


ACTIVATE = {
    "django_tenants": "schema_editor.connection.set_schema_to_public()",
    "django_pgschemas": (
        "from django_pgschemas.schema import activate_public; activate_public()"
    ),
}


def test_another_schema_is_left_active(project: TenantProject, jobs: str) -> None:
    """A migration that leaves another schema active fails, and is recorded nowhere."""
    prepare(project)
    body = f"def wander(apps, schema_editor):\n    {ACTIVATE[project.package]}\n\n"
    project.add_migration(
        "0006_wander", f"migrations.RunPython(wander, {NOOP})", body=body
    )
    before = project.records(project.shared)
    failed = project.run("safe_migrate", "--jobs", jobs, code=1)
    assert "has left the schema 'public' active" in failed.stderr, failed
    after = project.records(project.shared)
    assert after == before + Counter(["stock.0006_wander"])
    for name in NAMES:
        assert "stock.0006_wander" not in project.records(name)


def test_closed_connection(project: TenantProject, jobs: str) -> None:
    """After a migration has closed the connection, the next one finds its schema again."""
    limit = {"django_tenants": "TENANT", "django_pgschemas": "PGSCHEMAS"}
    project.append(
        "mysite/settings.py", f"{limit[project.package]}_LIMIT_SET_CALLS = True\n"
    )
    prepare(project)
    close = "def close(apps, schema_editor):\n    schema_editor.connection.close()\n\n"
    write = (
        "def write(apps, schema_editor):\n"
        '    apps.get_model("stock", "Box").objects.update(color="written")\n\n'
    )
    project.add_migration(
        "0006_close", f"migrations.RunPython(close, {NOOP})", body=close, atomic=False
    )
    project.add_migration(
        "0007_write",
        f"migrations.RunPython(write, {NOOP})",
        body=write,
        after="0006_close",
    )
    project.run("safe_migrate", "--jobs", jobs)
    assert values(project, "color") == dict.fromkeys(NAMES, "written")


def test_shared_content_types(project: TenantProject) -> None:
    """Permissions of a schema belong to content types of the shared schema, if it has none."""
    project.append(
        "mysite/settings.py",
        "TENANT_APPS.remove('django.contrib.contenttypes')\n"
        "if PACKAGE == 'django_pgschemas':\n"
        "    TENANTS['www']['APPS'].remove('django.contrib.contenttypes')\n",
    )
    project.run("safe_migrate")
    project.add_tenants(*NAMES)
    project.run("safe_migrate", "--jobs", "2")
    counts = {
        project.database.value(f"SELECT count(*) FROM {quoted(name)}.auth_permission")
        for name in [*NAMES, project.shared]
    }
    assert len(counts) == 1
    assert counts.pop() > 30
    assert not project.database.has_table("t0.django_content_type")


def test_output_of_workers(project: TenantProject) -> None:
    """The output of a migration in a worker reaches the output of the command."""
    prepare(project)
    body = (
        "def tell(apps, schema_editor):\n"
        "    with schema_editor.connection.cursor() as cursor:\n"
        '        cursor.execute("SELECT current_schema()")\n'
        '        print("told by", cursor.fetchone()[0])\n\n'
    )
    project.add_migration("0006_tell", f"migrations.RunPython(tell, {NOOP})", body=body)
    replica = project.run("safe_migrate", "--jobs", "2", PYTHONUNBUFFERED="")
    for name in NAMES:
        assert f"told by {name}\n" in replica.stdout, replica


OUTSIDE = {
    "function": "CREATE OR REPLACE FUNCTION public.shared() RETURNS int LANGUAGE sql"
    " AS 'SELECT 1'; SELECT pg_sleep(0.1)",
    "type": "DO $$ BEGIN IF to_regtype('public.mood') IS NULL THEN PERFORM pg_sleep(0.2);"
    " CREATE TYPE public.mood AS ENUM ('fine'); END IF; END $$",
    "row": "DO $$ BEGIN IF NOT EXISTS (SELECT FROM public.auth_group WHERE name = 'x') THEN"
    " PERFORM pg_sleep(0.2); INSERT INTO public.auth_group (name) VALUES ('x'); END IF; END $$",
}


@pytest.mark.parametrize("statement", OUTSIDE.values(), ids=OUTSIDE)
def test_objects_outside_of_the_schemas(project: TenantProject, statement: str) -> None:
    """Migrations that change the same object at the same time are repeated."""
    prepare(project)
    project.add_migration("0006_function", f'migrations.RunSQL("""{statement}""")')
    project.run("safe_migrate", "--jobs", "3")
    project.assert_complete(NAMES, "stock.0006_function")


HOLD = """
def fill(apps, schema_editor):
    apps.get_model("auth", "Group").objects.create(name="of a tenant")
    hold(schema_editor, "inside")

"""


def test_schema_that_is_renamed(project: TenantProject, jobs: str) -> None:
    """The migration of a schema that is renamed while it runs does not change the shared one."""
    prepare(project)
    project.add_migration("0006_fill", f"migrations.RunPython(fill, {NOOP})", body=HOLD)
    replica = project.start("safe_migrate", "--jobs", jobs, HOLD_SCHEMA="t1")
    project.wait_for_note("inside t1")
    project.database.rows("ALTER SCHEMA t1 RENAME TO renamed")
    project.allow()
    assert replica.wait() in (0, 1), replica
    assert project.records(project.shared)["stock.0006_fill"] == 1
    groups = f"SELECT count(*) FROM {quoted(project.shared)}.auth_group"
    # A static tenant has no table of groups, and uses the shared one.
    assert project.database.value(groups) == len(project.static)
    assert "stock.0006_fill" not in project.records("renamed")
    project.assert_complete(["t0", "t2"], "stock.0006_fill")


SWAP = """
def swap(apps, schema_editor):
    apps.get_model("stock", "Box").objects.update(color="first half")
    hold(schema_editor, "inside")

"""


def test_schema_that_is_replaced(project: TenantProject) -> None:
    """A migration is not recorded in a schema that gets the name while it runs."""
    prepare(project)
    project.database.rows("CREATE SCHEMA new")
    project.database.rows(
        "CREATE TABLE new.django_migrations (LIKE t1.django_migrations INCLUDING ALL)"
    )
    project.add_migration("0006_swap", f"migrations.RunPython(swap, {NOOP})", body=SWAP)
    leader = project.start("safe_migrate", HOLD_SCHEMA="t1")
    project.wait_for_note("inside t1")
    project.database.rows(
        "ALTER SCHEMA t1 RENAME TO old; ALTER SCHEMA new RENAME TO t1"
    )
    project.allow()
    assert leader.wait() == 1, leader
    assert "its own schema was renamed or dropped" in leader.stderr
    assert not project.records("t1")
    assert "stock.0006_swap" not in project.records("old")
    assert project.database.value("SELECT color FROM old.stock_box") != "first half"


def test_schema_that_is_replaced_in_sql(project: TenantProject) -> None:
    """SQL that is replayed while its schema is replaced is executed in the new one, wholly."""
    prepare(project)
    project.database.rows("CREATE TABLE public.gate (); CREATE SCHEMA new")
    project.database.rows(
        "CREATE TABLE new.django_migrations (LIKE t1.django_migrations INCLUDING ALL)"
    )
    statement = "LOCK TABLE public.gate IN SHARE MODE"
    project.add_migration("0006_wait", f'migrations.RunSQL("{statement}")')
    with project.database.connect() as blocker:
        blocker.execute("BEGIN")
        blocker.execute("LOCK TABLE public.gate")
        leader = project.start("safe_migrate", "--schema", "t1")
        project.wait_until(
            lambda: project.database.value(
                "SELECT count(*) FROM pg_locks WHERE NOT granted"
                " AND relation = 'public.gate'::regclass"
            ),
            "the migration of t1",
        )
        project.database.rows(
            "ALTER SCHEMA t1 RENAME TO old; ALTER SCHEMA new RENAME TO t1"
        )
        blocker.execute("COMMIT")
    assert leader.wait() == 0, leader
    assert "stock.0006_wait" not in project.records("old")
    project.assert_complete(["t1"], "stock.0006_wait")
