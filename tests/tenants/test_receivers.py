"""Content types, permissions and other work of receivers is right in every schema."""

from __future__ import annotations

import pytest

from tests.tenants.harness import TenantProject, quoted

NAMES = [f"t{number}" for number in range(8)]
#: Runs Python on the real model and on the historical one, with different rows in each schema.
REMEMBER = """
def remember(apps, schema_editor):
    from django.contrib.contenttypes.models import ContentType
    from stock.models import Box as RealBox

    Box = apps.get_model("stock", "Box")
    historical = apps.get_model("contenttypes", "ContentType").objects
    for name, found in (
        ("real", ContentType.objects.get_for_model(RealBox)),
        ("historical", historical.get_for_model(Box)),
    ):
        Box.objects.create(label=f"{name} {found.pk}")

"""
RECEIVER = """

def note(sender, using, **kwargs):
    from django.db import connections

    if sender.label == "stock":
        with connections[using].cursor() as cursor:
            cursor.execute("SELECT current_schema()")
            schema = cursor.fetchone()[0]
            cursor.execute("CREATE TABLE IF NOT EXISTS seen (schema text)")
            cursor.execute("INSERT INTO seen VALUES (%s)", [schema])


models.signals.post_migrate.connect(note)
"""


def shift_content_types(project: TenantProject) -> None:
    """Let the content types of each schema have other numbers."""
    for number, name in enumerate(NAMES):
        project.database.rows(
            f"SELECT setval('{quoted(name)}.django_content_type_id_seq', %s)",
            100 + 10 * number,
        )


def box_type(project: TenantProject, schema: str) -> int:
    found: int = project.database.value(
        f"SELECT id FROM {quoted(schema)}.django_content_type"
        " WHERE app_label = 'stock' AND model = 'box'"
    )
    return found


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_content_types(project: TenantProject, jobs: str) -> None:
    """A manager's cache, real or historical, gives no row of another schema."""
    project.run("safe_migrate", WITHOUT_STOCK="1")
    project.add_tenants(*NAMES)
    project.run("safe_migrate", WITHOUT_STOCK="1")
    shift_content_types(project)
    project.add_migration(
        "0006_remember",
        "migrations.RunPython(remember, migrations.RunPython.noop)",
        body=REMEMBER,
    )
    project.run("safe_migrate", "--jobs", jobs)
    numbers = {name: box_type(project, name) for name in NAMES}
    assert len(set(numbers.values())) == len(NAMES)
    for name, number in numbers.items():
        expected = [f"first of {number}", f"real {number}", f"historical {number}"]
        assert project.labels(name) == expected, name


def test_permissions(project: TenantProject) -> None:
    """Every schema has the permissions that Django's own receivers create, once."""
    project.run("safe_migrate")
    project.add_tenants(*NAMES)
    project.run("safe_migrate", "--jobs", "2")
    for name in NAMES:
        rows = project.database.rows(
            f"SELECT p.codename FROM {quoted(name)}.auth_permission p"
            f" JOIN {quoted(name)}.django_content_type t ON t.id = p.content_type_id"
            " WHERE t.app_label = 'stock' ORDER BY p.id"
        )
        codenames = [row["codename"] for row in rows]
        assert codenames == [
            *(f"{action}_box" for action in ("add", "change", "delete", "view")),
            "open_box",
            *(f"{action}_shelf" for action in ("add", "change", "delete", "view")),
        ], name


def test_receiver_of_the_project(project: TenantProject) -> None:
    """A receiver of the project runs once in each schema of a run, also in a new release."""
    project.append("stock/models.py", RECEIVER)
    project.use(SAFE_INIT_RELEASE="1")
    project.run("safe_migrate")
    project.add_tenants(*NAMES)
    project.run("safe_migrate")
    project.run("safe_migrate")

    def seen(name: str) -> list[str]:
        rows = project.database.rows(f"SELECT schema FROM {quoted(name)}.seen")
        return [row["schema"] for row in rows]

    assert [seen(name) for name in NAMES] == [[name] for name in NAMES]
    project.run("safe_migrate", SAFE_INIT_RELEASE="2")
    assert [seen(name) for name in NAMES] == [[name] * 2 for name in NAMES]


INJECT = """
from django.db import migrations
from django.db.models.signals import pre_migrate


def inject(plan, **kwargs):
    for migration, _ in plan:
        if migration.name == "0006_size":
            migration.operations.append(
                migrations.RunSQL("UPDATE stock_box SET color = 'injected'")
            )


pre_migrate.connect(inject)
"""


def test_operations_of_a_receiver(project: TenantProject) -> None:
    """An operation that a receiver of `pre_migrate` adds is executed once in each schema."""
    project.run("safe_migrate")
    project.add_tenants("t0", "t1")
    project.run("safe_migrate")
    project.append("stock/models.py", INJECT)
    project.add_migration(
        "0006_size",
        'migrations.AddField("box", "size", models.IntegerField(default=0))',
    )
    project.run("safe_migrate")
    project.assert_complete(["t0", "t1", *project.static], "stock.0006_size")
    for name in ("t0", "t1"):
        color = project.database.value(f"SELECT color FROM {name}.stock_box")
        assert color == "injected"
