"""A package with a schema for each tenant is found by its app, and its command is replaced."""

from __future__ import annotations

from importlib import import_module
from typing import Any
from unittest.mock import patch

import pytest
from django.apps import apps
from django.db import connections
from django.test import RequestFactory

from django_safe_init.backends.tenants import get_tenancy, is_tenanted
from django_safe_init.backends.tenants.django_pgschemas import DjangoPgschemas
from django_safe_init.backends.tenants.django_tenants import DjangoTenants
from django_safe_init.backends.tenants.tenancy import Selection, Tenancy
from django_safe_init.management import tenant_commands
from django_safe_init.management.commands.migrate import Command

CLASSES: dict[str, type[Tenancy]] = {
    "django_tenants": DjangoTenants,
    "django_pgschemas": DjangoPgschemas,
}
DATABASE_SETTINGS = {
    "django_tenants": "TENANT_DB_ALIAS",
    "django_pgschemas": "PGSCHEMAS_TENANT_DB_ALIAS",
}


@pytest.fixture(params=CLASSES)
def package(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let one of the packages be installed."""
    monkeypatch.setattr(apps, "is_installed", lambda name: name == request.param)
    return str(request.param)


def test_no_package() -> None:
    """A project without either package has no tenants."""
    assert get_tenancy("default") is None
    assert not is_tenanted()


def test_the_database_of_a_package(package: str, settings: Any) -> None:
    """Only the database of the package has tenants, by default the alias `default`."""
    assert is_tenanted()
    assert isinstance(get_tenancy("default"), CLASSES[package])
    assert get_tenancy("other") is None
    setattr(settings, DATABASE_SETTINGS[package], "other")
    found = get_tenancy("other")
    assert isinstance(found, CLASSES[package])
    assert (found.alias, found.shared_schema) == ("other", "public")
    assert get_tenancy("default") is None


def test_the_command_of_a_package(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package's own command is this package's `migrate`; other packages keep theirs."""
    originals = {}
    for app, name in tenant_commands._MODULES.items():
        module: Any = import_module(name)
        originals[app] = module.Command
        monkeypatch.setattr(module, "Command", module.Command)
    tenant_commands.replace_commands()
    for app, name in tenant_commands._MODULES.items():
        module = import_module(name)
        if app == package:
            assert type(module.Command()) is Command
        else:
            assert module.Command is originals[app]


@pytest.mark.parametrize(
    ("selection", "is_whole"),
    [
        (Selection(), True),
        (Selection(False), False),
        (Selection(True, ()), False),
        (Selection(True, ("acme",)), False),
    ],
)
def test_a_whole_selection(selection: Selection, is_whole: bool) -> None:
    """Only the shared schema together with the schemas of all tenants is whole."""
    assert selection.is_whole is is_whole


class Least(DjangoTenants):
    """A tenancy with the defaults of the base class."""

    default_order = Tenancy.default_order
    before_migrate, after_migrate = Tenancy.before_migrate, Tenancy.after_migrate
    jobs = Tenancy.jobs
    hosts, static_hosts = Tenancy.hosts, Tenancy.static_hosts


def test_defaults() -> None:
    """By default a package has no order, no signals, one process and no map of host names."""
    tenancy = Least("default")
    assert tenancy.default_order == ()
    assert tenancy.before_migrate("acme") is tenancy.after_migrate("acme") is None
    assert tenancy.jobs({"executor": "multiprocessing"}) == 1
    assert tenancy.hosts is None
    assert tenancy.static_hosts == {}


@pytest.mark.usefixtures("package")
def test_an_engine_without_schemas() -> None:
    """A database whose engine has no schemas has no tenants."""
    entry = {**connections.settings["default"], "ENGINE": "django.db.backends.sqlite3"}
    with patch.dict(connections.settings, {"default": entry}):
        assert get_tenancy("default") is None


@pytest.mark.parametrize(
    ("tenancy", "host", "found"),
    [
        (DjangoTenants, "acme.example:8000", "acme.example"),
        (DjangoPgschemas, "acme.example:8000", "acme.example"),
        (DjangoPgschemas, "www.acme.example", "acme.example"),
        (DjangoTenants, "acme_$.example", None),
        (DjangoPgschemas, "acme_$.example", None),
    ],
)
def test_the_host_of_a_request(
    tenancy: type[Any], host: str, found: str | None, settings: Any
) -> None:
    """The host name follows the rule of the package, and a refused host is none."""
    settings.ALLOWED_HOSTS = ["*"]
    request = RequestFactory().get("/", headers={"host": host})
    assert tenancy("default").host_of(request) == found


@pytest.mark.parametrize("tenancy", [DjangoTenants, DjangoPgschemas])
def test_the_schema_of_a_request(tenancy: type[Any]) -> None:
    """The request has the schema of the tenant that the middleware has found."""
    request: Any = RequestFactory().get("/")
    assert tenancy("default").schema_of(request) is None
    request.tenant = None
    assert tenancy("default").schema_of(request) is None
    request.tenant = type("Tenant", (), {"schema_name": "acme"})
    assert tenancy("default").schema_of(request) == "acme"
