"""One run migrates the shared schema, and then the schemas of all tenants."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.processes.harness import exit_codes
from tests.support import wait_until
from tests.tenants.harness import TenantProject, quoted

NAMES = ["t0", "t1", "t2", "t3"]
FIELD = 'migrations.AddField("box", "size", models.IntegerField(default=0))'
#: The statistics of a session that has ended are visible at once; others after ten seconds.
STATISTICS = 15


def prepare(project: TenantProject) -> None:
    project.run("safe_migrate")
    project.add_tenants(*NAMES)
    project.run("safe_migrate")


def is_ready(project: TenantProject) -> bool:
    replica = project.run("safe_migrate", "--check", code=None)
    assert replica.wait() in (0, 1), replica
    return replica.wait() == 0


@pytest.mark.smoke
def test_first_run_and_second(project: TenantProject) -> None:
    """A run migrates the shared schema; the next one finds the tenants that were added."""
    first = project.run("safe_migrate")
    project.assert_complete(project.static)
    assert not project.database.has_table("public.stock_box"), first
    project.add_tenants(*NAMES)
    assert not is_ready(project)
    second = project.run("safe_migrate", "--jobs", "2")
    project.assert_complete([*NAMES, *project.static])
    assert [len(project.labels(name)) for name in NAMES] == [1] * 4
    assert project.database.newest_run()["outcome"] == "ready", second
    assert is_ready(project)
    third = project.run("safe_migrate")
    assert len(project.database.runs()) == 2, third


@pytest.mark.smoke
def test_replicas_together(project: TenantProject, jobs: str) -> None:
    """Of eight replicas one migrates all schemas, and the others wait for it."""
    project.run("migrate")
    project.add_tenants(*NAMES)
    project.add_migration("0006_size", FIELD)
    replicas = [project.start("safe_migrate", "--jobs", jobs) for _ in range(8)]
    assert exit_codes(replicas) == [0] * 8, project
    project.assert_complete([*NAMES, *project.static], "stock.0006_size")
    assert project.database.newest_run()["outcome"] == "ready"


def test_shared_comes_first(project: TenantProject) -> None:
    """If the shared schema fails, no tenant is migrated."""
    prepare(project)
    project.add_migration(
        "0002_wrong",
        "migrations.RunSQL('SELECT 1/0')",
        app="customers",
        after="0001_initial",
    )
    project.add_migration("0006_size", FIELD)
    failed = project.run("safe_migrate", code=1)
    assert "division by zero" in failed.stderr
    assert all("stock.0006_size" not in project.records(name) for name in NAMES)


def test_other_shared_schema(project: TenantProject, jobs: str) -> None:
    """The shared schema may have another name, and nothing is created in `public`."""
    if project.package == "django_pgschemas":
        pytest.skip("django-pgschemas calls it public")
    project.use(PUBLIC_SCHEMA="shared")
    project.database.rows("CREATE SCHEMA shared")
    project.run("safe_migrate")
    project.add_tenants(*NAMES)
    project.run("safe_migrate", "--jobs", jobs)
    project.assert_complete(NAMES)
    assert not project.database.rows(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    )
    assert is_ready(project)
    status = project.run("safe_init_status")
    assert "ready" in status.stdout


def test_schema_dropped_and_created_again(project: TenantProject) -> None:
    """An empty schema in the place of a finished one is noticed at once."""
    prepare(project)
    project.database.rows("DROP SCHEMA t1 CASCADE")
    project.database.rows("CREATE SCHEMA t1")
    assert not is_ready(project)
    project.run("safe_migrate")
    project.assert_complete([*NAMES, *project.static])
    assert set(project.schema_rows()) == {"t1"}
    assert is_ready(project)


def test_table_emptied_and_restored(project: TenantProject) -> None:
    """A truncated table of records is noticed, also with other rows in it."""
    prepare(project)
    project.database.rows("CREATE TABLE t2.saved AS SELECT * FROM t2.django_migrations")
    project.database.rows("TRUNCATE t2.django_migrations")
    assert not is_ready(project)
    project.database.rows(
        "INSERT INTO t2.django_migrations SELECT * FROM t2.saved WHERE app <> 'stock'"
    )
    assert not is_ready(project)


def test_record_deleted(project: TenantProject) -> None:
    """A record that a person has deleted is noticed after seconds, and is made again."""
    prepare(project)
    project.database.rows(
        "DELETE FROM t2.django_migrations WHERE app = 'stock' AND name = '0005_box_color'"
    )
    project.database.rows("ALTER TABLE t2.stock_box DROP color")
    project.database.close()  # sends the statistics
    wait_until(lambda: not is_ready(project), STATISTICS)
    project.run("safe_migrate")
    project.assert_complete([*NAMES, *project.static])
    assert set(project.schema_rows()) == {"t2"}


def test_statistics_are_reset_twice(project: TenantProject) -> None:
    """A server that counts from zero again, as after a crash, does not hide what was deleted."""
    prepare(project)
    project.database.rows("SELECT pg_stat_reset()")
    assert is_ready(project)
    project.run("safe_migrate")
    project.run("migrate", "stock", "0004", "--schema", "t1")
    project.database.rows(
        "DELETE FROM t2.django_migrations WHERE app = 'stock' AND name = '0005_box_color'"
    )
    project.database.rows("ALTER TABLE t2.stock_box DROP color")
    project.database.rows("SELECT pg_stat_reset()")
    assert not is_ready(project)
    project.run("safe_migrate")
    assert set(project.schema_rows()) == {"t1", "t2"}
    project.assert_complete([*NAMES, *project.static])


def test_force_reads_all(project: TenantProject) -> None:
    """With --force the records themselves count, whatever the statistics of the server say."""
    project.add_migration(
        "0006_data", 'migrations.RunSQL("UPDATE stock_box SET weight = weight + 1")'
    )
    prepare(project)
    forget = "DELETE FROM t1.django_migrations WHERE name = '0006_data'"
    project.database.rows(f"{forget}; SELECT pg_stat_force_next_flush()")
    project.database.rows(
        f"UPDATE {quoted(project.shared)}.django_safe_init_schema"
        " SET deleted = pg_stat_get_tuples_deleted(table_oid::oid) WHERE schema = 't1'"
    )
    project.run("safe_migrate")
    assert "stock.0006_data" not in project.records("t1")
    project.run("safe_migrate", "--force")
    project.assert_complete([*NAMES, *project.static])
    assert set(project.schema_rows()) == {"t1"}
    weights = [
        project.database.value(f"SELECT weight FROM {name}.stock_box") for name in NAMES
    ]
    assert weights == [2 if name == "t1" else 1 for name in NAMES]


# Commands of a person

SELECTIONS = {
    "django_tenants": [
        (["migrate", "--schema", "t1"], ["t1"]),
        (["migrate_schemas", "--schema", "t1"], ["t1"]),
        (["migrate", "-s", "t1"], ["t1"]),
        (["migrate", "--shared"], ["public"]),
        (["migrate_schemas", "--shared"], ["public"]),
        (["migrate", "--schema", "public"], ["public"]),
        (["migrate", "--tenant"], NAMES),
        (["migrate_schemas", "--tenant", "--executor", "multiprocessing"], NAMES),
        (
            [
                "migrate_schemas",
                "--tenant",
                "--executor",
                "subprocess",
                "--parallel",
                "2",
            ],
            NAMES,
        ),
        (["safe_migrate", "--schema", "t1", "--schema", "t3"], ["t1", "t3"]),
    ],
    "django_pgschemas": [
        (["migrate", "-s", "t1"], ["t1"]),
        (["migrateschema", "-s", "t1", "t3"], ["t1", "t3"]),
        (["migrateschema", "-s", "public"], ["public"]),
        (["migrate", "-ds"], NAMES),
        (["migrateschema", "-ds", "--parallel"], NAMES),
        (["migrateschema", "-ts", "-x", "t1"], ["t0", "t2", "t3"]),
        (["migrate", "-ss"], ["public", "www"]),
        (["migrateschema", "-as", "-x", "t0"], ["public", "t1", "t2", "t3", "www"]),
        (["safe_migrate", "--schema", "t1", "--schema", "www"], ["t1", "www"]),
    ],
}
PARTS = [
    pytest.param(package, *part, id=f"{package}-{' '.join(part[0])}")
    for package, parts in SELECTIONS.items()
    for part in parts
]


def with_size(project: TenantProject) -> list[str]:
    names = ["public", *NAMES, *project.static]
    return [name for name in names if "stock.0006_size" in project.records(name)]


@pytest.mark.parametrize(("package", "command", "names"), PARTS)
def test_a_part(project: TenantProject, command: list[str], names: list[str]) -> None:
    """A command for some schemas migrates these under the lock, and makes no build ready."""
    prepare(project)
    project.add_migration("0006_size", FIELD)
    done = project.run(*command)
    assert sorted(with_size(project)) == sorted(names), done
    assert project.database.newest_run()["outcome"] == "partial"
    assert not is_ready(project)
    project.run("safe_migrate")
    assert is_ready(project)
    project.assert_complete([*NAMES, *project.static], "stock.0006_size")
    project.run(*command)  # with nothing left to do
    assert is_ready(project)


def test_the_result_of_a_part(project: TenantProject) -> None:
    """A program that reads the result does not take single schemas for a ready build."""
    prepare(project)
    project.add_migration("0006_size", FIELD)
    done = project.run("safe_migrate", "--schema", "t1", "--json")
    assert done.json["result"] == "partial"
    assert done.json["schemas_migrated"] == 1
    refused = project.run("safe_migrate", "--schema", "t2", "--", "true", code=2)
    assert "so no command can follow it" in refused.stderr
    assert with_size(project) == ["t1"]
    printed = project.run("safe_migrate", "--schema", "t2").stdout
    assert "default: done (leader, " in printed


def test_a_part_beside_another_database(project: TenantProject) -> None:
    """A named schema changes no database without tenants, and needs a process that leads."""
    project.append(
        "mysite/settings.py",
        'DATABASES["other"] = {"ENGINE": "django.db.backends.sqlite3",'
        ' "NAME": os.environ["TEST_DIR"] + "/other.sqlite3"}\n',
    )
    prepare(project)
    project.use(safe_init={"DATABASES": ["default", "other"]})
    done = project.run("safe_migrate", "--schema", "t1")
    assert "default: done" in done.stdout
    assert "other" not in done.stdout + done.stderr
    refused = project.run(
        "safe_migrate", "--schema", "t1", "--mode", "external", code=2
    )
    assert "with the mode 'external'" in refused.stderr


ALL = {
    "django_tenants": [
        ["migrate"],
        ["migrate_schemas"],
        ["migrate", "--executor", "multiprocessing"],
        ["migrate_schemas", "--executor", "subprocess"],
    ],
    "django_pgschemas": [
        ["migrate"],
        ["migrateschema", "-as"],
        ["migrate", "--parallel"],
    ],
}


@pytest.mark.parametrize(
    ("package", "command"),
    [
        pytest.param(package, command, id=f"{package}-{' '.join(command)}")
        for package, commands in ALL.items()
        for command in commands
    ],
)
def test_all_of_it(project: TenantProject, command: list[str]) -> None:
    """The packages' own commands for all schemas run in one run, under the lock."""
    project.run(*command)
    project.add_tenants(*NAMES)
    project.add_migration("0006_size", FIELD)
    replicas = [project.start(*command) for _ in range(3)]
    assert exit_codes(replicas) == [0] * 3, project
    project.assert_complete([*NAMES, *project.static], "stock.0006_size")
    assert project.database.newest_run()["outcome"] == "ready"
    assert is_ready(project)


def test_target(project: TenantProject, jobs: str) -> None:
    """`migrate APP NAME` goes to that migration in all schemas, and back."""
    prepare(project)
    project.add_migration("0006_size", FIELD)
    project.add_migration(
        "0007_sql", "migrations.RunSQL('SELECT 1')", after="0006_size"
    )
    project.run("migrate", "stock", "0006")
    assert with_size(project) == ["public", *NAMES, *project.static]
    assert not is_ready(project)
    project.run("migrate", "stock", "0005")
    assert with_size(project) == []
    assert not is_ready(project)
    project.run("safe_migrate", "--jobs", jobs)
    assert with_size(project) == ["public", *NAMES, *project.static]


@pytest.mark.parametrize("package", ["django_tenants"])
def test_this_package_as_base_command(project: TenantProject) -> None:
    """If TENANT_BASE_MIGRATE_COMMAND names this package, Django's command runs in each schema."""
    path = "django_safe_init.management.commands.migrate.Command"
    project.append("mysite/settings.py", f"\nTENANT_BASE_MIGRATE_COMMAND = {path!r}\n")
    prepare(project)
    project.run("migrate", "stock", "0004")
    for name in NAMES:
        assert "stock.0005_box_color" not in project.records(name)
    project.run("safe_migrate")
    project.assert_complete(NAMES)


def test_they_wait_for_the_leader(project: TenantProject) -> None:
    """A command for one schema waits until the leader has finished."""
    prepare(project)
    project.add_migration(
        "0006_note",
        "migrations.RunPython(note)",
        body="def note(apps, schema_editor):\n    hold(schema_editor, 'at')\n",
    )
    leader = project.start("safe_migrate", HOLD_SCHEMA="t2")
    project.wait_for_note("at t2")
    command = {
        "django_tenants": ("migrate_schemas", "--schema", "t3"),
        "django_pgschemas": ("migrateschema", "-s", "t3"),
    }[project.package]
    other = project.start(*command)
    project.wait_for_followers(1)
    assert "stock.0006_note" not in project.records("t3")
    project.allow()
    assert exit_codes([leader, other]) == [0, 0], project
    assert len(project.notes("at t3")) == 1


# The same schemas as plain Django makes

RICH = {
    "0006_rename": (
        'migrations.RenameModel("shelf", "Rack"), '
        'migrations.RenameField("rack", "name", "title")'
    ),
    "0007_fields": (
        'migrations.AlterField("box", "weight", models.DecimalField('
        "max_digits=9, decimal_places=2, default=0)), "
        'migrations.AddField("box", "parent", models.ForeignKey("stock.Box", '
        "models.SET_NULL, null=True)), "
        'migrations.AddField("rack", "best", models.ManyToManyField("stock.Box", '
        'related_name="+")), '
        'migrations.AddIndex("box", models.Index(fields=["label", "-color"], '
        'name="box_label_color")), '
        'migrations.AddConstraint("box", models.UniqueConstraint(fields=["label"], '
        'condition=models.Q(weight__gt=7), name="heavy"))'
    ),
    "0008_sql": (
        'migrations.RunSQL(["INSERT INTO stock_box (label, weight, color) VALUES '
        "('50%; ''x'' -- no', 1, '')\", (\"UPDATE stock_box SET color = %s || '%%' "
        "WHERE label LIKE %s\", ['100%;', '50\\\\%%'])]), "
        'migrations.RunSQL("DO $$ BEGIN PERFORM 1; END $$; CREATE VIEW picked AS '
        "SELECT * FROM stock_box WHERE label LIKE '%;%'; \"), "
        "migrations.RunSQL(\"UPDATE stock_box SET label = label || '%s %(x)s %' -- done\\n\")"
    ),
    "0009_python": (
        "migrations.RunPython(fill), "
        'migrations.CreateModel("Label", [("id", models.AutoField(primary_key=True)), '
        '("text", models.TextField(db_index=True)), ("owner", models.ForeignKey('
        '"auth.User", models.CASCADE, null=True))], '
        'options={"permissions": [("stick", "Can stick")]}), '
        "migrations.RunSQL('DROP VIEW picked')"
    ),
}
BODY = """
def fill(apps, schema_editor):
    content_type = apps.get_model("contenttypes", "ContentType")
    rack = content_type.objects.get_for_model(apps.get_model("stock", "Rack"))
    box = apps.get_model("stock", "Box")
    for number in range(3):
        box.objects.create(label=f"{rack.model} {rack.pk == 0} {number}%", weight=number)
    apps.get_model("stock", "Rack").objects.create(title="top").best.set(box.objects.all())

"""
MODELS = """

class Rack(models.Model):
    title = models.CharField(max_length=50, unique=True)
    boxes = models.ManyToManyField(Box)
    best = models.ManyToManyField(Box, related_name="+")


class Label(models.Model):
    id = models.AutoField(primary_key=True)
    text = models.TextField(db_index=True)
    owner = models.ForeignKey("auth.User", models.CASCADE, null=True)

    class Meta:
        permissions = [("stick", "Can stick")]


Box.add_to_class("parent", models.ForeignKey("stock.Box", models.SET_NULL, null=True))
"""


def add_rich_migrations(project: TenantProject) -> None:
    after = "0005_box_color"
    for name, operations in RICH.items():
        project.add_migration(name, operations, after=after, body=BODY)
        after = name
    models = project.root / "stock/models.py"
    models.write_text(models.read_text().split("class Shelf")[0] + MODELS)


DESCRIPTION = {
    "columns": "SELECT table_name, column_name, ordinal_position, data_type, is_nullable,"
    " column_default, character_maximum_length, numeric_scale, identity_generation"
    " FROM information_schema.columns WHERE table_schema = %(schema)s ORDER BY 1, 3",
    "constraints": "SELECT conrelid::regclass::text, conname,"
    " pg_get_constraintdef(c.oid) FROM pg_constraint c JOIN pg_namespace n"
    " ON n.oid = connamespace WHERE nspname = %(schema)s ORDER BY 1, 2, 3",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes"
    " WHERE schemaname = %(schema)s ORDER BY 1, 2",
    "sequences": "SELECT sequencename, last_value FROM pg_sequences"
    " WHERE schemaname = %(schema)s AND sequencename NOT LIKE 'django_migrations%%'"
    " ORDER BY 1",
    "records": "SELECT app, name FROM {schema}.django_migrations ORDER BY 1, 2",
    # Without their ids: Django reads the models of an app in an order that may differ.
    "types": "SELECT app_label, model FROM {schema}.django_content_type ORDER BY 1, 2",
    "permissions": "SELECT codename, name, app_label, model"
    " FROM {schema}.auth_permission p JOIN {schema}.django_content_type t"
    " ON t.id = content_type_id ORDER BY 1, 3, 4",
    "boxes": "SELECT * FROM {schema}.stock_box ORDER BY id",
    "best": "SELECT * FROM {schema}.stock_rack_best ORDER BY id",
}


def describe(project: TenantProject, schema: str, *names: str) -> dict[str, Any]:
    """Return all that a tenant's schema holds, without its name."""
    found = {}
    for name in names or DESCRIPTION:
        query = DESCRIPTION[name].replace("{schema}", quoted(schema))
        with project.database.connect() as raw:
            raw.execute(f"SET search_path = {quoted(schema)}, public")
            rows = raw.execute(query, {"schema": schema}).fetchall()  # type: ignore[arg-type]
        text = [str(tuple(row.values())) for row in rows]
        found[name] = [re.sub(rf'"?\b{schema}\b"?\.', "", each) for each in text]
    return found


PLAIN = {
    "django_tenants": ("migrate_schemas",),
    "django_pgschemas": ("migrateschema", "-as"),
}


@pytest.mark.smoke
def test_same_as_plain(project: TenantProject, jobs: str) -> None:
    """The schemas are what the package's own command makes: step by step, and at once."""
    off = {"SAFE_INIT_SETTINGS": '{"MODE": "off"}'}
    plain = PLAIN[project.package]
    project.append(
        "mysite/settings.py",
        "\nif os.environ.get('WITHOUT'):\n"
        "    for each in (INSTALLED_APPS, SHARED_APPS):\n"
        "        each.remove('django_safe_init')\n"
        "    MIDDLEWARE = []\n",
    )
    del off
    project.run(*plain, WITHOUT="1")
    project.add_tenants("plain", "plain2")
    project.run(*plain, WITHOUT="1")
    project.add_tenants("ours")
    project.run("safe_migrate", "--jobs", jobs)
    add_rich_migrations(project)
    project.add_tenants("ours2")
    project.run("safe_migrate", "--schema", "ours", "--schema", "ours2", "--jobs", jobs)
    assert "stock.0009_python" not in project.records("plain")
    project.run(*plain, WITHOUT="1")
    project.add_tenants("plain3")
    project.run(*plain, WITHOUT="1")
    wanted, found = describe(project, "plain"), describe(project, "ours")
    for name in DESCRIPTION:
        assert found[name] == wanted[name], name
    fresh, found = describe(project, "plain3"), describe(project, "ours2")
    for name in DESCRIPTION:
        assert found[name] == fresh[name], name
    project.run("safe_migrate")
    assert is_ready(project)
