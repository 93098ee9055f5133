"""The schemas and options of django-pgschemas."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest
from django.core.management.commands.migrate import Command as DjangoMigrate
from django.db import connections
from django_pgschemas import utils
from django_pgschemas.schema import get_current_schema

from django_safe_init.backends.tenants.django_pgschemas import DjangoPgschemas
from django_safe_init.backends.tenants.tenancy import Selection, Tenant
from tests.unit.tenants import models

DOMAINS = "django_pgschemas.routing.middleware.DomainRoutingMiddleware"
STATIC = {
    "public": {"APPS": []},
    "www": {"APPS": [], "DOMAINS": ["www.example.com", "example.com"]},
    "blog": {"APPS": []},
}
DYNAMIC = {
    **STATIC,
    "default": {
        "TENANT_MODEL": "tenants.Tenant",
        "DOMAIN_MODEL": "tenants.Domain",
        "CLONE_REFERENCE": "sample",
    },
}


@pytest.fixture
def tenancy(settings: Any) -> DjangoPgschemas:
    settings.TENANTS = STATIC
    return DjangoPgschemas("default")


@pytest.fixture
def dynamic(tenancy: DjangoPgschemas, settings: Any, monkeypatch: Any) -> None:
    """Let the project have a model of tenants."""
    settings.TENANTS = DYNAMIC
    monkeypatch.setattr(utils, "get_tenant_model", lambda: models.Tenant)
    monkeypatch.setattr(utils, "get_domain_model", lambda: models.Domain)


def test_search_path(tenancy: DjangoPgschemas, settings: Any) -> None:
    """The path has the schema, `public` and the extra ones, each once."""
    assert tenancy.search_path("www") == ["www", "public"]
    assert tenancy.search_path("public") == ["public"]
    settings.PGSCHEMAS_EXTRA_SEARCH_PATHS = ["extensions"]
    assert tenancy.search_path("www") == ["www", "public", "extensions"]


def test_static_tenants(tenancy: DjangoPgschemas) -> None:
    """A static tenant is of a kind with its name: no other schema has its apps."""
    assert tenancy.static_tenants == (Tenant("www", "www"), Tenant("blog", "blog"))
    assert tenancy.tenants is None
    assert tenancy.kind_of("www") == "www"
    assert tenancy.kind_of("acme") == ""
    assert tenancy.fields == ("schema_name",)
    assert tenancy.base_migrate() is DjangoMigrate


@pytest.mark.usefixtures("dynamic")
def test_dynamic_tenants(tenancy: DjangoPgschemas) -> None:
    """The reference schema has the apps of dynamic tenants, which are rows of the model."""
    assert tenancy.static_tenants[-1] == Tenant("sample")
    assert tenancy.tenants is not None
    assert tenancy.tenants.model is models.Tenant


def test_the_active_schema(tenancy: DjangoPgschemas) -> None:
    """The schema is active in the block, and the one from before is active afterwards."""
    with tenancy.active(connections["default"], Tenant("www")):
        with (
            suppress(ZeroDivisionError),
            tenancy.active(connections["default"], Tenant("blog")),
        ):
            assert get_current_schema().schema_name == "blog"
            raise ZeroDivisionError
        assert get_current_schema().schema_name == "www"
    assert get_current_schema().schema_name == "public"


@pytest.mark.parametrize(
    ("options", "selection"),
    [
        ({}, Selection()),
        ({"all_schemas": True}, Selection()),
        ({"schemas": ["www"]}, Selection(False, ("www",))),
        ({"schemas": ["public"]}, Selection(True, ())),
        ({"schemas": ["public", "www"]}, Selection(True, ("www",))),
        ({"static_schemas": True, "excluded_schemas": ["blog"]}, Selection(True, ("www",))),
        ({"excluded_schemas": ["www"]}, Selection(True, ("blog",))),
        ({"all_schemas": True, "excluded_schemas": ["www"]}, Selection(True, ("blog",))),
    ],
)  # fmt: skip
def test_selection(
    tenancy: DjangoPgschemas,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    selection: Selection,
) -> None:
    """The package's own options name schemas, and no option names all."""
    commands: Any = import_module("django_pgschemas.management.commands")
    monkeypatch.setattr(commands, "dynamic_models_exist", lambda: False)
    assert tenancy.selection(options) == selection
    assert tenancy.names_schemas(options) is ("schemas" in options)


@pytest.mark.parametrize(
    ("options", "limit", "jobs"),
    [
        ({}, 9, 1),
        ({"parallel": False}, 9, 1),
        ({"parallel": True}, 9, 9),
        ({"parallel": True}, None, os.cpu_count()),
    ],
)
def test_jobs(
    tenancy: DjangoPgschemas,
    settings: Any,
    options: dict[str, Any],
    limit: int | None,
    jobs: int,
) -> None:
    """`--parallel` asks for the processes of the setting, or one for each processor."""
    settings.PGSCHEMAS_PARALLEL_MAX_PROCESSES = limit
    assert tenancy.jobs(options) == jobs


def test_hosts_of_static_tenants(tenancy: DjangoPgschemas, settings: Any) -> None:
    """Host names of the settings lead to static tenants, and no query is needed."""
    settings.MIDDLEWARE = []
    assert tenancy.static_hosts == {}
    settings.MIDDLEWARE = [DOMAINS]
    assert tenancy.hosts is None
    assert tenancy.static_hosts == {"www.example.com": "www", "example.com": "www"}


@pytest.mark.usefixtures("dynamic")
def test_hosts_of_dynamic_tenants(tenancy: DjangoPgschemas, settings: Any) -> None:
    """With the middleware for domains, the host of a domain without a folder tells the tenant."""
    settings.MIDDLEWARE = []
    assert tenancy.hosts is None
    settings.MIDDLEWARE = [DOMAINS]
    assert tenancy.hosts is not None
    assert "folder" in str(tenancy.hosts.query)
