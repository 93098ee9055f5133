"""Creating a tenant opens no run, and waits for no run but in its own schema."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import urlopen

import pytest

from tests.processes.harness import Replica, exit_codes
from tests.support import Database, free_port, wait_until
from tests.tenants.harness import TenantProject

NAMES = ["t0", "t1", "t2"]
CREATE = """
from customers.models import Customer, Domain

def create(name):
    customer = Customer(schema_name=name)
    customer.save()
    Domain.objects.create(tenant=customer, domain=name + ".localhost")

"""
ATOMIC = """
from django.db import transaction
with transaction.atomic():
    create("made")
"""
UNDONE = """
from django.db import transaction
try:
    with transaction.atomic():
        create("made")
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
"""
NOTE = """
def note(apps, schema_editor):
    hold(schema_editor, "at")
    apps.get_model("stock", "Box").objects.create(label="second")

"""
VIEW = """

def sign_up(request):
    from customers.models import Customer

    Customer(schema_name=request.GET["name"]).save()
    return JsonResponse({"made": request.GET["name"]})


urlpatterns.append(path("sign-up", sign_up))
"""


def prepare(project: TenantProject) -> None:
    project.run("safe_migrate")
    project.add_tenants(*NAMES)
    project.run("safe_migrate")


@pytest.mark.smoke
@pytest.mark.parametrize("text", ["create('made')", ATOMIC], ids=["plain", "atomic"])
def test_no_run(project: TenantProject, text: str) -> None:
    """A tenant that is created has all migrations, and the next start has nothing to do."""
    prepare(project)
    project.python(CREATE + text)
    project.assert_complete(["made"])
    assert len(project.labels("made")) == 1
    project.run("safe_migrate")
    assert len(project.database.runs()) == 2
    assert not project.database.rows("SELECT FROM pg_locks WHERE locktype = 'advisory'")


SHARED = {
    "django_tenants": "call_command('migrate_schemas', schema_name='public')",
    "django_pgschemas": "call_command('migrateschema', schemas=['public'])",
}


def test_code_that_names_the_shared_schema(project: TenantProject) -> None:
    """Code that migrates the shared schema waits for the leader lock, and opens a run."""
    prepare(project)
    project.add_migration(
        "0002_note",
        "migrations.RunPython(note)",
        app="customers",
        after="0001_initial",
        body='def note(apps, schema_editor):\n    hold(schema_editor, "at")\n',
    )
    migrate = (
        f"from django.core.management import call_command\n{SHARED[project.package]}"
    )
    leader = project.start("safe_migrate", HOLD_SCHEMA="public")
    project.wait_for_note("at public")
    other = project.start("shell", "-v", "0", "-c", migrate)
    project.wait_for_followers(1)
    project.allow()
    assert exit_codes([leader, other]) == [0, 0], project
    assert len(project.notes("at public")) == 1
    assert project.database.newest_run()["outcome"] == "partial"


def test_rolled_back(project: TenantProject) -> None:
    """The schema of a sign-up that is rolled back is gone."""
    prepare(project)
    project.python(CREATE + UNDONE)
    assert not project.database.rows("SELECT FROM pg_namespace WHERE nspname = 'made'")
    project.run("safe_migrate")
    assert len(project.database.runs()) == 2


@pytest.mark.smoke
@pytest.mark.parametrize("text", ["create('made')", ATOMIC], ids=["plain", "atomic"])
def test_during_a_run(project: TenantProject, jobs: str, text: str) -> None:
    """A sign-up does not wait for a run that migrates other tenants."""
    prepare(project)
    project.add_migration("0006_note", "migrations.RunPython(note)", body=NOTE)
    project.use(HOLD_SCHEMA="t1")
    leader = project.start("safe_migrate", "--jobs", jobs)
    project.wait_for_note("at t1")
    project.python(CREATE + text)
    project.assert_complete(["made"], "stock.0006_note")
    assert not leader.ended
    project.allow()
    assert leader.wait() == 0, leader
    project.assert_complete([*NAMES, "made", *project.static], "stock.0006_note")
    assert project.labels("made")[1:] == ["second"]


def test_run_during_a_creation(project: TenantProject, jobs: str) -> None:
    """A run waits for the schema that a sign-up is filling, and does it last."""
    prepare(project)
    project.add_migration("0006_note", "migrations.RunPython(note)", body=NOTE)
    creation = project.start(
        "shell", "-v", "0", "-c", CREATE + "create('made')", HOLD_SCHEMA="made"
    )
    project.wait_for_note("at made")
    leader = project.start("safe_migrate", "--jobs", jobs)
    project.wait_until(
        lambda: all("stock.0006_note" in project.records(each) for each in NAMES),
        "the others",
    )
    assert not leader.ended
    project.allow()
    assert exit_codes([creation, leader]) == [0, 0], project
    project.assert_complete([*NAMES, "made", *project.static], "stock.0006_note")
    assert project.labels("made")[1:] == ["second"]
    assert len(project.notes("at made")) == 1


def test_run_does_not_wait_for_ever(project: TenantProject) -> None:
    """A schema whose key another session keeps has failed after WAIT_TIMEOUT."""
    project.use(safe_init={"WAIT_TIMEOUT": 1})
    prepare(project)
    project.add_migration("0006_note", "migrations.RunPython(note)", body=NOTE)
    creation = project.start(
        "shell", "-v", "0", "-c", CREATE + "create('made')", HOLD_SCHEMA="made"
    )
    project.wait_for_note("at made")
    failed = project.run("safe_migrate", code=1)
    assert "made: Another session has kept the key of the schema" in failed.stderr
    assert project.schema_rows()["made"]["state"] == "failed"
    project.assert_complete([*NAMES, *project.static], "stock.0006_note")
    project.allow()
    assert creation.wait() == 0, creation
    project.run("safe_migrate")
    assert project.database.newest_run()["outcome"] == "ready"


def test_creation_killed(project: TenantProject) -> None:
    """A tenant whose creation was killed is finished by the next start."""
    prepare(project)
    project.add_migration("0006_note", "migrations.RunPython(note)", body=NOTE)
    creation = project.start(
        "shell", "-v", "0", "-c", CREATE + "create('made')", HOLD_SCHEMA="made"
    )
    project.wait_for_note("at made")
    creation.kill()
    project.run("safe_migrate")
    project.assert_complete([*NAMES, "made", *project.static], "stock.0006_note")
    assert project.labels("made")[1:] == ["second"]


def test_failed_creation(project: TenantProject) -> None:
    """A migration that fails in a new tenant raises its own error, and nothing is left."""
    prepare(project)
    project.add_migration("0006_wrong", "migrations.RunSQL('SELECT 1/0')")
    project.tracebacks = True
    failed = project.run("shell", "-v", "0", "-c", CREATE + "create('made')", code=1)
    assert "DataError: division by zero" in failed.stderr
    assert not project.database.rows("SELECT FROM pg_namespace WHERE nspname = 'made'")
    assert len(project.database.runs()) == 2


def test_faked_clone(database: Database, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A tenant that django-tenants clones is up to date, also while a run goes on."""
    project = TenantProject(database, tmp_path, "django_tenants")
    try:
        project.append(
            "mysite/settings.py",
            "\nTENANT_CREATION_FAKES_MIGRATIONS = True\nTENANT_BASE_SCHEMA = 't0'\n",
        )
        prepare(project)
        project.python(CREATE + "create('made')")
        project.assert_complete(["made"])
        assert len(project.labels("made")) == 1
        project.run("safe_migrate")
        assert len(database.runs()) == 2
        project.add_migration("0006_note", "migrations.RunPython(note)", body=NOTE)
        project.run("safe_migrate", "--jobs", "2")
        project.assert_complete([*NAMES, "made"], "stock.0006_note")
        assert project.labels("made")[1:] == ["second"]
        # The original lacks this one, and so does its clone.
        project.add_migration(
            "0007_size",
            "migrations.AddField('box', 'size', models.IntegerField(default=7))",
            after="0006_note",
        )
        project.python(CREATE + "create('second')")
        assert "stock.0007_size" in project.records("second")
        assert database.value("SELECT min(size) FROM second.stock_box") == 7
        project.run("safe_migrate", "--jobs", "2")
        project.assert_complete([*NAMES, "made", "second"], "stock.0007_size")
    finally:
        project.end()


@contextmanager
def gunicorn(project: TenantProject, port: int) -> Iterator[Replica]:
    command = [sys.executable, "-m", "gunicorn", "--chdir", str(project.root)]
    command += ["--bind", f"127.0.0.1:{port}", "--timeout", "0", "mysite.wsgi"]
    variables = {"ATOMIC_REQUESTS": "1", "PYTHONPATH": f"{project.root}:."}
    environment = project.environment(**variables)
    server = Replica(command, environment, project.directory / "gunicorn")
    try:
        wait_until(lambda: "Listening at" in server.stderr, message=lambda: str(server))
        yield server
    finally:
        server.kill(15)
        server.wait()


@pytest.mark.smoke
def test_atomic_requests(project: TenantProject, jobs: str) -> None:
    """A view with ATOMIC_REQUESTS creates a tenant while a run migrates the others."""
    prepare(project)
    project.append("mysite/urls.py", VIEW)
    (project.root / "mysite/wsgi.py").write_text(
        "import os\n"
        "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'mysite.settings')\n"
        "from django.core.wsgi import get_wsgi_application\n"
        "application = get_wsgi_application()\n"
    )
    owner = "t2"
    if project.package == "django_tenants":
        # The view belongs to the shared schema.
        project.append(
            "mysite/settings.py", "\nSHOW_PUBLIC_IF_NO_TENANT_FOUND = True\n"
        )
    else:
        owner = "public"
        project.append(
            "mysite/settings.py",
            "\nTENANTS['www']['URLCONF'] = 'mysite.urls'\n"
            "MIDDLEWARE = ['django_safe_init.middleware.InitializationMiddleware']\n",
        )
    del owner
    port = free_port()
    with gunicorn(project, port) as server:
        url = f"http://127.0.0.1:{port}/sign-up?name="

        def get(name: str) -> str:
            with urlopen(url + name, timeout=60) as response:
                return str(response.read().decode())

        wait_until(lambda: "made1" in get("made1"), message=lambda: str(server))
        project.assert_complete(["made1"])
        project.add_migration("0006_note", "migrations.RunPython(note)", body=NOTE)
        project.use(HOLD_SCHEMA="t1")
        leader = project.start("safe_migrate", "--jobs", jobs)
        project.wait_for_note("at t1")
        assert "made2" in get("made2")
        assert not leader.ended
        project.allow()
        assert leader.wait() == 0, leader
    project.run("safe_migrate")
    project.assert_complete(
        [*NAMES, "made1", "made2", *project.static], "stock.0006_note"
    )
    assert project.labels("made2")[1:] == ["second"]
