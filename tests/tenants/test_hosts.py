"""The tenants that wait, and the host names by which the packages find them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from django_safe_init.backends.postgresql.lock_keys import schema_key
from tests.tenants.harness import TenantProject
from tests.tenants.serving_support import add_hosts

NAMES = ["t0", "t1", "t2"]
BLOCKED = """
import json
from django_safe_init.conf import get_settings
from django_safe_init.core.deadline import Deadline
from django_safe_init.status import open_reader
reader = open_reader("default", get_settings(), Deadline(0))
found = reader.blocked({names!r})
reader.close()
print(json.dumps([sorted(found.schemas), dict(found.hosts)]))
"""
HOSTS = """
import json
from django.test import RequestFactory
from django_safe_init.backends.tenants import get_tenancy
get = RequestFactory().get
hosts = ["www.t1.localhost:8000", "t1.localhost", "not a host"]
requests = [get("/", headers={"host": host}) for host in hosts]
print(json.dumps([get_tenancy("default").host_of(request) for request in requests]))
"""
STATIC = """
TENANTS["www"]["DOMAINS"] = ["static.localhost", "t2.localhost"]
"""
OTHER_MIDDLEWARE = {
    "django_tenants": """
MIDDLEWARE[1] = "django_tenants.middleware.subfolder.TenantSubfolderMiddleware"
""",
    "django_pgschemas": """
MIDDLEWARE.append("django_pgschemas.routing.middleware.HeadersRoutingMiddleware")
""",
}


def printed(project: TenantProject, text: str) -> Any:
    return json.loads(project.python(text).stdout)


def blocked(project: TenantProject, *names: str) -> Any:
    return printed(project, BLOCKED.format(names=names))


@pytest.fixture
def tenants(project: TenantProject) -> TenantProject:
    project.run("safe_migrate")
    project.add_tenants(*NAMES)
    add_hosts(project, *NAMES)
    return project


def test_host_of_a_request(project: TenantProject) -> None:
    """The package's own rule cuts the port and `www.`; a host that Django refuses is none."""
    assert printed(project, HOSTS) == ["t1.localhost", "t1.localhost", None]


def test_hosts(tenants: TenantProject) -> None:
    """The hosts of the named tenants are known, and no others."""
    assert blocked(tenants, "t0", "t1") == [
        ["t0", "t1"],
        {"t0.localhost": "t0", "t1.localhost": "t1"},
    ]
    assert blocked(tenants) == [[], {}]


def test_other_middleware(tenants: TenantProject) -> None:
    """No host is known if something besides the host tells the tenant."""
    tenants.append("mysite/settings.py", OTHER_MIDDLEWARE[tenants.package])
    assert blocked(tenants, "t0") == [["t0"], {}]


def test_tenant_that_is_created(tenants: TenantProject) -> None:
    """A tenant whose schema's key another session holds is being created, and not blocked."""
    tenants.database.rows(f"SELECT pg_advisory_lock({schema_key('t1')})")
    assert blocked(tenants, "t0", "t1") == [["t0"], {"t0.localhost": "t0"}]


@pytest.mark.parametrize("package", ["django_pgschemas"])
def test_static_hosts(tenants: TenantProject) -> None:
    """A host in the settings is the static tenant's, whatever the table of domains says."""
    tenants.append("mysite/settings.py", STATIC)
    assert blocked(tenants, "t1", "t2") == [["t1", "t2"], {"t1.localhost": "t1"}]
    assert blocked(tenants, "www") == [
        ["www"],
        {"static.localhost": "www", "t2.localhost": "www"},
    ]


@pytest.mark.parametrize("package", ["django_pgschemas"])
def test_folders(tenants: TenantProject) -> None:
    """A host with folders tells no tenant."""
    tenants.database.rows(
        "INSERT INTO customers_domain"
        " (domain, folder, redirect_to_primary, is_primary, tenant_id)"
        " SELECT 't1.localhost', 'folder', false, false, id FROM customers_customer"
        " WHERE schema_name = 't2'"
    )
    assert blocked(tenants, *NAMES) == [
        NAMES,
        {"t0.localhost": "t0", "t2.localhost": "t2"},
    ]
