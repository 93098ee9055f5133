"""A person sees each tenant's schema: in the commands, in the rows of a run and in the admin."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support import validate_json
from tests.tenants.harness import TenantProject
from tests.tenants.test_readiness import FAILING, PYTHON

NAMES = ["t0", "t1", "t2"]
FAILURE = "stock.0006_held: ValueError: a secret of t1"


def status(project: TenantProject, *options: str, code: int | None = 0) -> Any:
    """Return the object of `safe_init_status --json`, which matches its schema."""
    replica = project.run("safe_init_status", "--json", *options, code=code)
    document = json.loads(replica.stdout)
    validate_json("safe_init_status", document)
    return document


def without_schema(project: TenantProject) -> list[str]:
    """Return the tenants without a schema. A run creates the schemas of django-pgschemas."""
    return ["gone"] if project.package == "django_tenants" else []


def fail_in_one(project: TenantProject) -> None:
    """Initialize three tenants, and fail in one of them."""
    project.run("safe_migrate")
    project.add_tenants(*NAMES)
    project.add_tenants(*without_schema(project), schemas=False)
    project.run("safe_migrate")
    project.add_migration("0006_held", PYTHON, body=FAILING)
    project.tracebacks = True
    project.run("safe_migrate", code=1)


@pytest.mark.smoke
def test_status(project: TenantProject) -> None:
    """The status counts the schemas, and names the failed ones with their errors."""
    fail_in_one(project)
    done = len([*NAMES, *project.static]) - 1
    shown = project.run("safe_init_status", code=1).stdout
    assert f"tenants' schemas: {done} of {done + 1} up to date, 1 failed\n" in shown
    assert f"    failed: t1: {FAILURE}\n" in shown
    document = status(project, code=1)
    assert document["schemas"] == {
        "total": done + 1,
        "done": done,
        "failed": 1,
        "pending": 0,
        "behind": 1,
        "failures": [{"schema": "t1", "error": FAILURE}],
    }
    assert document["run"]["schemas"]["failed"] == 1
    project.allow()
    project.run("safe_migrate")
    assert status(project)["schemas"]["failures"] == []


def test_list_of_schemas(project: TenantProject) -> None:
    """`--schemas` lists each schema with its state, and `--schema` shows one of them."""
    fail_in_one(project)
    run = project.database.newest_run()["id"]
    tenants = status(project, "--schemas", code=1)["tenants"]
    states = {each["schema"]: (each["state"], each["run"]) for each in tenants}
    assert states == {
        **dict.fromkeys(without_schema(project), ("missing", None)),
        "t0": ("up_to_date", run),
        "t1": ("failed", run),
        "t2": ("up_to_date", run),
        **dict.fromkeys(project.static, ("up_to_date", run)),
    }
    lines = project.run("safe_init_status", "--schemas", code=1).stdout.splitlines()
    assert lines[1].split() == ["schema", "state", "run", "took", "error"]
    assert lines[2].split()[:3] == ["t1", "failed", str(run)]
    assert lines[2].endswith(FAILURE)

    one = status(project, "--schema", "t1", code=1)["tenant"]
    assert (one["error"], one["pending"]) == (FAILURE, ["stock.0006_held"])
    shown = project.run("safe_init_status", "--schema", "t1", code=1).stdout
    assert "schema t1 - failed" in shown
    assert "to apply: stock.0006_held" in shown
    assert status(project, "--schema", "t0")["tenant"]["pending"] == []
    project.add_tenants("late")
    assert status(project, "--schema", "late", code=3)["tenant"]["state"] == "behind"
    unknown = project.run("safe_init_status", "--schema", "nobody", code=2)
    assert "No tenant of 'default' has the schema 'nobody'" in unknown.stderr


def test_while_it_runs(project: TenantProject) -> None:
    """While a run is in the schemas, the status counts them, with the failures so far."""
    project.run("safe_migrate")
    project.add_tenants(*NAMES)
    project.run("safe_migrate")
    body = FAILING.replace(
        "    if schema", '    hold(schema_editor, "before")\n    if schema'
    )
    project.add_migration("0006_held", PYTHON, body=body)
    leader = project.start("safe_migrate", HOLD_SCHEMA="t2")
    project.tracebacks = True
    project.wait_for_note("before t2")
    project.wait_until(lambda: status(project, code=None)["schemas"], "schemas")

    def failures() -> list[dict[str, str]]:
        found: list[dict[str, str]] = status(project, code=3)["schemas"]["failures"]
        return found

    assert project.wait_until(failures, "a failure") == [
        {"schema": "t1", "error": FAILURE}
    ]
    project.allow()
    assert leader.wait() == 1, leader


def test_step_of_a_failure(project: TenantProject) -> None:
    """A step of the run tells which migration failed in which schema. No later run repeats it."""
    fail_in_one(project)
    steps = [row for row in project.database.steps() if row["kind"] == "schema"]
    assert [(row["name"], row["outcome"]) for row in steps] == [
        ("t1: stock.0006_held", "failed")
    ]
    run = str(project.database.newest_run()["id"])
    report = project.run("safe_init_status", "--run", run).stdout
    assert "t1: stock.0006_held" in report
    project.allow()
    again = project.run("safe_migrate")
    assert "unfinished" not in again.stderr, again


def test_plan_and_check(project: TenantProject) -> None:
    """`--plan` and `--check` show the shared schema, and count the schemas that are behind."""
    empty = project.run("migrate", "--plan").stdout
    assert "customers.0001_initial" in empty
    assert "tenants' schemas" not in empty
    project.run("migrate", "--check", code=1)
    project.run("safe_migrate")
    project.run("migrate", "--check")
    project.add_tenants(*NAMES)
    total = len([*NAMES, *project.static])
    line = f"3 of {total} tenants' schemas lack migrations: t0, t1, t2"
    for command in ("migrate", "safe_migrate"):
        plan = project.run(command, "--plan").stdout
        assert plan.endswith(f"{line}.\n"), plan
        assert plan.count("No planned migration operations") == 1, plan
    checked = project.run("migrate", "--check", code=1)
    assert checked.stdout == f"{line}.\n", checked
    refused = project.run("safe_migrate", "--check", code=1)
    assert line in refused.stderr, refused
    project.use(safe_init={"TENANT_READINESS": "shared"})
    by_policy = project.run("safe_migrate", "--check", code=1)
    assert line in by_policy.stderr, by_policy
    project.run("safe_migrate")
    project.run("safe_migrate", "--check")
    project.run("migrate", "--check")


NAMED = {"django_tenants": ("--schema", "t1"), "django_pgschemas": ("-s", "t1")}


def test_plan_of_one_schema(project: TenantProject) -> None:
    """With a named schema, `--plan` and `--check` are about that schema only."""
    project.run("safe_migrate")
    project.add_tenants(*NAMES)
    named = NAMED[project.package]
    plan = project.run("migrate", "--plan", *named).stdout
    assert "stock.0005_box_color" in plan
    assert "tenants' schemas" not in plan
    project.run("migrate", "--check", *named, code=1)
    project.run("migrate", *named)
    project.run("migrate", "--check", *named)


def test_validation(project: TenantProject) -> None:
    """`safe_init_validate` compares the shared schema with the models of the shared apps."""
    project.run("safe_migrate")
    project.add_tenants(*NAMES)
    project.run("safe_migrate")
    report = project.run("safe_init_validate", "--json")
    [database] = json.loads(report.stdout)["databases"]
    assert database["findings"] == []
    project.database.rows("ALTER TABLE public.customers_customer DROP COLUMN size")
    broken = project.run("safe_init_validate", code=1)
    assert "size" in broken.stdout, broken
    assert "stock_box" not in broken.stdout, broken


ADMIN = """
INSTALLED_APPS += ["django.contrib.messages", "django.contrib.admin"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [{
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "APP_DIRS": True,
    "OPTIONS": {"context_processors": [
        "django.template.context_processors.request",
        "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages",
    ]},
}]
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"
if PACKAGE == "django_pgschemas":
    TENANTS["public"]["APPS"] = [
        *TENANTS["public"]["APPS"], "django.contrib.messages", "django.contrib.admin"
    ]
"""
URLS = """
from django.contrib import admin
urlpatterns += [path("admin/", admin.site.urls)]
"""
PAGES = """
from django.contrib.auth.models import User
from django.test import Client
client = Client()
user, _ = User.objects.get_or_create(username="x", is_staff=True)
client.force_login(user, "django.contrib.auth.backends.ModelBackend")
for url in {urls!r}:
    response = client.get("/admin/django_safe_init/" + url)
    print(response.status_code, response.content.decode())
    print("END")
"""


def pages(project: TenantProject, *urls: str) -> list[str]:
    printed = project.python(PAGES.format(urls=urls)).stdout.split("END\n")
    assert all(page.startswith("200 ") for page in printed[: len(urls)]), printed
    return printed[: len(urls)]


def test_admin(project: TenantProject) -> None:
    """The admin lists the schemas of a run, by their state, also after the run was deleted."""
    fail_in_one(project)
    project.append("mysite/settings.py", ADMIN)
    project.append("mysite/urls.py", URLS)
    run = project.database.newest_run()["id"]
    schemas = "tenantschema/"
    of_run, failed, page = pages(
        project,
        f"{schemas}?run__exact={run}",
        f"{schemas}?run__exact={run}&state=failed",
        f"run/{run}/",
    )
    assert all(f">{name}<" in of_run for name in NAMES)
    assert FAILURE in failed
    assert ">t0<" not in failed
    done = len([*NAMES, *project.static]) - 1
    assert f"{schemas}?run__exact={run}" in page
    assert f">{done}/{done + 1}<" in page
    assert "t1: stock.0006_held" in page
    project.database.rows("DELETE FROM django_safe_init_run WHERE id = %s", run)
    [left] = pages(project, schemas)
    assert all(f">{name}<" in left for name in NAMES)
    assert f'field-link">{run}</td>' in left
    assert f"/run/{run}/" not in left
