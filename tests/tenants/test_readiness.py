"""With TENANT_READINESS "shared", a tenant waits for its own schema, and for no other one."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

from tests.support import validate_json
from tests.tenants.harness import TenantProject
from tests.tenants.serving_support import (
    BOXES,
    BROWSER,
    READY,
    SIGN_UP,
    STATUS,
    TenantServer,
    add_hosts,
)

NAMES = ["t0", "t1", "t2"]
HELD = """
def insert(apps, schema_editor):
    hold(schema_editor, "before")
    apps.get_model("stock", "Box").objects.create(label="second")

"""
PYTHON = "migrations.RunPython(insert, migrations.RunPython.noop)"
#: Fails in one schema, until a file of the test allows it.
FAILING = """
import os
from pathlib import Path

def insert(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        [schema] = cursor.fetchone()
    if schema == "t1" and not Path(os.environ["TEST_DIR"], "allowed").exists():
        raise ValueError("a secret of t1")

"""
SHARED = {"TENANT_READINESS": "shared"}
SAY = ("--", sys.executable, "-c", "print('it serves')")


def prepare(project: TenantProject, body: str = HELD) -> None:
    """Initialize three tenants, and add a migration to their apps."""
    project.run("safe_migrate")
    project.add_tenants(*NAMES)
    add_hosts(project, *NAMES)
    project.run("safe_migrate")
    project.add_migration("0006_held", PYTHON, body=body)


def boxes(server: TenantServer, tenant: str) -> int:
    return server.get(BOXES, tenant).status


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["gunicorn", "uvicorn"])
def test_each_tenant_waits_for_its_own_schema(
    project: TenantProject, kind: str
) -> None:
    """A tenant whose schema is done is served while another one is migrated."""
    prepare(project)
    project.use(safe_init=SHARED)
    leader = project.start("safe_migrate", HOLD_SCHEMA="t1")
    project.wait_for_note("before t1")
    server = TenantServer(project, kind)
    server.wait_until_ready()
    assert [boxes(server, name) for name in NAMES] == [200, 503, 503]

    held = server.get(BOXES, "t1", BROWSER)
    total = len([*NAMES, *project.static])
    assert f"1 of {total} sites updated" in held.body
    assert 1 <= int(held.headers["retry-after"]) <= 5
    problem = server.get(BOXES, "www.t1").json
    assert problem["state"] == "migrating"
    status = server.get(STATUS).json
    validate_json("status", status)
    assert (status["state"], status["schemas"]["done"]) == ("ready", 1)
    for body in (held.body, json.dumps(problem), json.dumps(status)):
        assert "t2" not in body
        assert "0006" not in body

    project.python(SIGN_UP.format(name="later"))
    assert boxes(server, "later") == 200
    project.allow()
    server.wait_for(lambda answer: answer.status == 200, BOXES, "t2")
    assert [boxes(server, name) for name in NAMES] == [200, 200, 200]
    assert leader.wait() == 0, leader
    server.end()


OWN_MIDDLEWARE = {
    "django_tenants": """
from django_tenants.middleware.main import TenantMainMiddleware
class Own(TenantMainMiddleware):
    "Has a rule of its own."
""",
    "django_pgschemas": """
from django_pgschemas.routing.middleware import DomainRoutingMiddleware
def Own(get_response):
    return DomainRoutingMiddleware(get_response)
""",
}


@pytest.mark.parametrize("kind", ["gunicorn", "uvicorn"])
def test_a_middleware_of_the_project(project: TenantProject, kind: str) -> None:
    """Without a known rule for hosts, the project's middleware tells the tenant."""
    prepare(project)
    (project.root / "mysite/middleware.py").write_text(OWN_MIDDLEWARE[project.package])
    project.append("mysite/settings.py", 'MIDDLEWARE[1] = "mysite.middleware.Own"\n')
    project.use(safe_init=SHARED)
    project.start("safe_migrate", HOLD_SCHEMA="t1")
    project.wait_for_note("before t1")
    server = TenantServer(project, kind)
    server.wait_until_ready()
    assert [boxes(server, name) for name in NAMES] == [200, 503, 503]
    assert server.get("/nowhere", "t1").status == 404
    project.allow()
    server.wait_for(lambda answer: answer.status == 200, BOXES, "t2")
    server.end()


def test_all_of_them(project: TenantProject) -> None:
    """By default, a process is ready once all schemas are done."""
    prepare(project)
    project.start("safe_migrate", HOLD_SCHEMA="t1")
    project.wait_for_note("before t1")
    server = TenantServer(project)
    server.wait_for(lambda answer: answer.json["state"] == "migrating")
    assert boxes(server, "t0") == 503
    total = len([*NAMES, *project.static])
    page = server.get(BOXES, "t0", BROWSER).body
    assert f"of {total} sites updated" in page
    project.allow()
    server.wait_until_ready()
    assert [boxes(server, name) for name in NAMES] == [200, 200, 200]
    server.end()


@pytest.mark.parametrize("mode", ["self", "external"])
def test_followers_go_on(project: TenantProject, mode: str) -> None:
    """A follower becomes its command as soon as the shared schema is done."""
    prepare(project)
    project.use(safe_init=SHARED)
    leader = project.start("safe_migrate", HOLD_SCHEMA="t1")
    project.wait_for_note("before t1")
    follower = project.run("safe_migrate", "--mode", mode, *SAY)
    assert "it serves" in follower.stdout, follower
    assert not leader.ended, leader
    project.allow()
    assert leader.wait() == 0, leader


def test_followers_wait_for_all(project: TenantProject) -> None:
    """By default, a follower waits for the schemas of all tenants."""
    prepare(project)
    leader = project.start("safe_migrate", HOLD_SCHEMA="t1")
    project.wait_for_note("before t1")
    follower = project.start("safe_migrate", *SAY)
    project.wait_for_followers(1)
    assert "it serves" not in follower.stdout
    project.allow()
    assert (leader.wait(), follower.wait()) == (0, 0), project
    assert "it serves" in follower.stdout, follower


def test_leader_with_a_failed_tenant(project: TenantProject) -> None:
    """A leader whose tenants failed names them, and becomes its command."""
    prepare(project, FAILING)
    project.use(safe_init=SHARED)
    project.tracebacks = True
    leader = project.run("safe_migrate", *SAY)
    assert "it serves" in leader.stdout, leader
    assert "t1: stock.0006_held: ValueError: a secret of t1" in leader.stderr, leader
    failed = project.run("safe_migrate", code=1)
    assert "a secret of t1" in failed.stderr, failed
    as_json = project.run("safe_migrate", "--json", *SAY)
    outcome = json.loads(as_json.stdout.splitlines()[0])
    validate_json("safe_migrate", outcome)
    assert outcome["result"] == "failed"
    project.allow()
    project.run("safe_migrate")
    project.assert_complete([*NAMES, *project.static], "stock.0006_held")


def test_all_of_them_and_a_failed_tenant(project: TenantProject) -> None:
    """By default, a leader whose tenants failed does not become its command."""
    prepare(project, FAILING)
    project.tracebacks = True
    leader = project.run("safe_migrate", *SAY, code=1)
    assert "it serves" not in leader.stdout, leader


def test_failed_tenant(project: TenantProject) -> None:
    """A server serves the tenants that succeeded, and the failed one after the next run."""
    prepare(project, FAILING)
    project.use(safe_init=SHARED)
    project.tracebacks = True
    project.run("safe_migrate", code=1)
    server = TenantServer(project)
    server.wait_until_ready()
    assert [boxes(server, name) for name in NAMES] == [200, 503, 200]
    failed = server.get(BOXES, "t1")
    assert failed.json["state"] == "error"
    assert 10 <= int(failed.headers["retry-after"]) <= 30
    page = server.get(BOXES, "t1", BROWSER).body
    assert "secret" not in failed.body + page
    project.allow()
    project.run("safe_migrate")
    server.wait_for(lambda answer: answer.status == 200, BOXES, "t1")
    server.end()


def test_killed_leader(project: TenantProject) -> None:
    """After the leader was killed in a tenant, the next start does the rest."""
    prepare(project)
    project.use(safe_init=SHARED)
    leader = project.start("safe_migrate", HOLD_SCHEMA="t1")
    project.wait_for_note("before t1")
    os.kill(leader.pid, signal.SIGKILL)
    leader.wait()
    project.run("safe_migrate", *SAY)
    project.assert_complete([*NAMES, *project.static], "stock.0006_held")


def test_server_that_initializes(project: TenantProject) -> None:
    """A server with SERVE "initialize" serves the tenants that its own run has done."""
    prepare(project)
    project.use(safe_init={**SHARED, "SERVE": "initialize"})
    server = TenantServer(project, HOLD_SCHEMA="t1")
    server.wait_until_ready()
    project.wait_for_note("before t1")
    server.wait_for(lambda answer: answer.status == 200, BOXES, "t0")
    assert [boxes(server, name) for name in NAMES] == [200, 503, 503]
    project.allow()
    server.wait_for(lambda answer: answer.status == 200, BOXES, "t2")
    server.end()


def test_server_that_initializes_again(project: TenantProject) -> None:
    """A server whose run failed in a tenant tries again, while it serves the others."""
    prepare(project, FAILING)
    project.use(safe_init={**SHARED, "SERVE": "initialize"})
    project.tracebacks = True
    server = TenantServer(project)
    server.wait_until_ready()
    server.wait_for(lambda answer: answer.status == 200, BOXES, "t2")
    assert boxes(server, "t1") == 503
    assert server.get(READY).status == 200
    project.allow()
    server.wait_for(lambda answer: answer.status == 200, BOXES, "t1")
    server.end()
