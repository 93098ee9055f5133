"""Tenants and schemas that are not as the packages leave them hold up no other schema."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tenants.harness import PACKAGES, TenantProject, quoted

NAMES = ["t0", "t1", "t2"]
FIELD = 'migrations.AddField("box", "size", models.IntegerField(default=0))'
NOTE = """
def note(apps, schema_editor):
    hold(schema_editor, "at")

"""
CREATE = "from customers.models import Customer\nCustomer(schema_name={!r}).save()\n"


def prepare(project: TenantProject) -> None:
    project.run("safe_migrate")
    project.add_tenants(*NAMES)
    project.run("safe_migrate")


def is_ready(project: TenantProject) -> bool:
    return project.run("safe_migrate", "--check", code=None).wait() == 0


def error_of(stderr: str) -> str:
    """Return the only line of a command's error."""
    [line] = [each for each in stderr.splitlines() if "CommandError" in each]
    return line


@pytest.mark.parametrize("package", ["django_tenants"])
def test_row_without_schema(project: TenantProject, jobs: str) -> None:
    """A tenant without a schema is named, and the build becomes ready without it."""
    prepare(project)
    project.add_tenants("ghost", schemas=False)
    assert is_ready(project)
    project.add_migration("0006_size", FIELD)
    done = project.run("safe_migrate", "--jobs", jobs)
    assert "Tenants without a schema, which are left alone: ghost." in done.stderr
    project.assert_complete([*NAMES, *project.static], "stock.0006_size")
    assert is_ready(project)
    refused = project.run("safe_migrate", "--schema", "ghost", code=2)
    assert "The schema ghost does not exist. Create it with" in error_of(refused.stderr)
    project.database.rows("CREATE SCHEMA ghost")
    assert not is_ready(project)
    project.run("safe_migrate")
    project.assert_complete(["ghost"], "stock.0006_size")


@pytest.mark.parametrize("package", ["django_pgschemas"])
def test_row_without_schema_of_pgschemas(project: TenantProject, jobs: str) -> None:
    """django-pgschemas creates the schemas that are missing, and so does a run."""
    prepare(project)
    project.add_tenants("ghost", schemas=False)
    assert not is_ready(project)
    project.run("safe_migrate", "--jobs", jobs)
    project.assert_complete(["ghost", *NAMES, *project.static])
    assert is_ready(project)


@pytest.mark.parametrize("package", ["django_tenants"])
def test_row_of_the_shared_schema(project: TenantProject) -> None:
    """A tenant whose schema is the shared one is migrated once, as the shared one."""
    prepare(project)
    project.add_tenants("public", schemas=False)
    project.add_migration("0006_size", FIELD)
    project.run("safe_migrate")
    assert "public" not in project.schema_rows()
    project.assert_complete([*NAMES, *project.static, "public"], "stock.0006_size")
    assert is_ready(project)


def test_unknown_schema(project: TenantProject) -> None:
    """A name that no tenant has is one clear line."""
    prepare(project)
    refused = project.run("safe_migrate", "--schema", "nowhere", code=2)
    assert "No tenant of 'default' has the schema nowhere" in error_of(refused.stderr)
    for option in ("--plan", "--check"):
        looked = project.run("migrate", "--schema", "nowhere", option, code=None)
        assert looked.wait() in (1, 2), looked
        assert "nowhere" in error_of(looked.stderr)
    refused = project.run("migrate", "--schema", "nowhere", code=None)
    assert refused.wait() in (1, 2)
    assert "nowhere" in error_of(refused.stderr)
    assert project.database.newest_run()["outcome"] in ("ready", "partial")
    assert is_ready(project)


def test_records_lost(project: TenantProject, jobs: str) -> None:
    """A schema with tables and without `django_migrations` fails, and the others are done."""
    prepare(project)
    project.database.rows("DROP TABLE t1.django_migrations")
    assert not is_ready(project)
    project.add_migration("0006_size", FIELD)
    failed = project.run("safe_migrate", "--jobs", jobs, code=1)
    assert "t1: contenttypes.0001_initial: " in error_of(failed.stderr)
    assert "already exists" in error_of(failed.stderr)
    others = [name for name in NAMES if name != "t1"]
    project.assert_complete([*others, *project.static], "stock.0006_size")
    faked = project.run("migrate", "--schema", "t1", "--fake", "stock", "0005")
    del faked
    assert "stock.0005_box_color" in project.records("t1")


def test_dropped_before_its_turn(project: TenantProject, jobs: str) -> None:
    """A schema that is dropped while the run works on another one is left out."""
    prepare(project)
    project.add_migration("0006_note", "migrations.RunPython(note)", body=NOTE)
    project.use(HOLD_SCHEMA="t0,t1")
    replica = project.start("safe_migrate", "--jobs", jobs)
    project.wait_for_note("at t0")
    project.database.rows("DROP SCHEMA t2 CASCADE")
    project.allow()
    assert replica.wait() == 0, replica
    project.assert_complete(["t0", "t1", *project.static], "stock.0006_note")
    if project.package == "django_tenants":
        assert "left alone: t2." in replica.stderr
        assert project.schema_rows()["t2"]["state"] == "missing"
    else:
        project.assert_complete(["t2"], "stock.0006_note")
    assert is_ready(project)


def test_dropped_in_its_turn(project: TenantProject, jobs: str) -> None:
    """A schema that is dropped during its own migration is left out."""
    prepare(project)
    project.add_migration(
        "0006_note",
        f"migrations.RunPython(note), {FIELD}",
        body=NOTE,
        atomic=False,
    )
    project.use(HOLD_SCHEMA="t1")
    replica = project.start("safe_migrate", "--jobs", jobs)
    project.wait_for_note("at t1")
    project.database.rows("DROP SCHEMA t1 CASCADE")
    project.allow()
    if project.package == "django_tenants":
        assert replica.wait() == 0, replica
        assert "Tenants without a schema, which are left alone: t1." in replica.stderr
    else:
        assert replica.wait() == 1, replica
        assert "t1: The schema was dropped while it was migrated" in replica.stderr
        project.run("safe_migrate")
        project.assert_complete(["t1"], "stock.0006_note")
    assert "Starting over" not in replica.stderr
    project.assert_complete(["t0", "t2", *project.static], "stock.0006_note")
    assert is_ready(project)


QUOTED = ["Has Space", "Ümlaut", "50% off", "select", "x" * 63, "Mixed", "a.b", "$1{}"]


@pytest.mark.smoke
@pytest.mark.parametrize("package", ["django_tenants"])
def test_names_that_need_quotes(project: TenantProject, jobs: str) -> None:
    """Any name that django-tenants allows works: in SQL, in rows, and with --schema."""
    prepare(project)
    project.add_tenants(*QUOTED)
    project.run("safe_migrate", "--jobs", jobs)
    project.assert_complete([*NAMES, *QUOTED])
    project.python(CREATE.format("Made % here"))
    project.assert_complete(["Made % here"])
    assert is_ready(project)
    project.add_migration("0006_size", FIELD)
    project.add_migration(
        "0007_python",
        "migrations.RunPython(note)",
        after="0006_size",
        body=NOTE,
    )
    selected = [part for name in QUOTED for part in ("--schema", name)]
    project.run("safe_migrate", *selected, "--jobs", jobs)
    project.assert_complete(QUOTED, "stock.0006_size", "stock.0007_python")
    project.run("migrate", "--schema", "Made % here")
    project.assert_complete(["Made % here"], "stock.0007_python", "stock.0006_size")
    project.run("safe_migrate", "--jobs", jobs)
    assert is_ready(project)


PATHS = {
    "database": "ALTER DATABASE {database} SET search_path = app, public",
    "role": "ALTER ROLE postgres IN DATABASE {database} SET search_path = app",
}


@pytest.mark.parametrize("of", PATHS)
def test_search_path(project: TenantProject, jobs: str, of: str) -> None:
    """A search path of the database or role does not move a table out of the shared schema."""
    database = project.database
    database.rows("CREATE SCHEMA app")
    database.rows(PATHS[of].format(database=quoted(database.name)))
    prepare(project)
    project.add_migration("0006_size", FIELD)
    project.add_migration(
        "0007_python", "migrations.RunPython(note)", after="0006_size", body=NOTE
    )
    project.run("safe_migrate", "--jobs", jobs)
    project.assert_complete(
        [*NAMES, *project.static], "stock.0006_size", "stock.0007_python"
    )
    assert not database.rows("SELECT FROM pg_tables WHERE schemaname = 'app'")
    assert is_ready(project)
    status = project.run("safe_init_status")
    assert "ready" in status.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_role_without_usage(project: TenantProject, jobs: str) -> None:
    """A schema that the role may not use fails with the reason, and the others are done."""
    database = project.database
    role = f"{database.name}_role"
    database.rows(f"CREATE ROLE {role} LOGIN")
    try:
        database.rows(f"GRANT CREATE ON DATABASE {quoted(database.name)} TO {role}")
        database.rows(f"ALTER SCHEMA public OWNER TO {role}")
        project.use(PGUSER=role)
        project.run("safe_migrate")
        project.add_tenants(*NAMES)
        for name in NAMES:
            database.rows(f"ALTER SCHEMA {name} OWNER TO {role}")
        project.run("safe_migrate", "--jobs", jobs)
        project.assert_complete([*NAMES, *project.static])
        database.rows("ALTER SCHEMA t1 OWNER TO postgres")
        database.rows(f"REVOKE ALL ON SCHEMA t1 FROM {role}")
        project.add_migration("0006_size", FIELD)
        failed = project.run("safe_migrate", "--jobs", jobs, code=1)
        line = error_of(failed.stderr)
        assert "t1: " in line
        assert "permission denied for schema t1" in line
        project.add_tenants("new")
        failed = project.run("safe_migrate", "--jobs", jobs, code=1)
        assert f"The role {role} may not use the schema" in failed.stderr
        assert f'GRANT USAGE, CREATE ON SCHEMA "new" TO "{role}"' in failed.stderr
        database.rows(f"ALTER SCHEMA new OWNER TO {role}")
        others: list[Any] = [name for name in NAMES if name != "t1"]
        project.assert_complete([*others, *project.static], "stock.0006_size")
        assert not is_ready(project)
        database.rows(f"ALTER SCHEMA t1 OWNER TO {role}")
        project.run("safe_migrate")
        project.assert_complete([*NAMES, *project.static], "stock.0006_size")
    finally:
        project.end()
        database.rows(f"REASSIGN OWNED BY {role} TO postgres")
        database.rows(f"DROP OWNED BY {role}")
        database.rows(f"DROP ROLE {role}")
