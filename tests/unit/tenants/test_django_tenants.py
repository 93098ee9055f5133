"""The schemas, options and signals of django-tenants."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from django.core.management import CommandError
from django.core.management.commands.migrate import Command as DjangoMigrate
from django_tenants import utils
from django_tenants.signals import schema_migrated, schema_pre_migration

from django_safe_init.backends.tenants.django_tenants import DjangoTenants
from django_safe_init.backends.tenants.tenancy import Selection, Tenant
from tests.unit.tenants import models

MAIN = "django_tenants.middleware.main.TenantMainMiddleware"


@pytest.fixture
def tenancy() -> DjangoTenants:
    return DjangoTenants("default")


@pytest.fixture
def tenant_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "get_tenant_model", lambda: models.Tenant)
    monkeypatch.setattr(utils, "get_tenant_domain_model", lambda: models.Domain)


@pytest.fixture
def types(settings: Any) -> None:
    """Let tenants be of several types."""
    settings.HAS_MULTI_TYPE_TENANTS = True
    settings.MULTI_TYPE_DATABASE_FIELD = "kind"


def test_search_path(tenancy: DjangoTenants, settings: Any) -> None:
    """The path has the schema, the shared schema and the extra ones, each once."""
    assert tenancy.search_path("acme") == ["acme", "public"]
    assert tenancy.search_path("public") == ["public"]
    settings.PUBLIC_SCHEMA_NAME = "shared"
    settings.PG_EXTRA_SEARCH_PATHS = ["extensions", "shared"]
    assert DjangoTenants("default").search_path("acme") == [
        "acme",
        "shared",
        "extensions",
    ]


@pytest.mark.usefixtures("tenant_models")
def test_the_query_of_the_tenants(tenancy: DjangoTenants) -> None:
    """All rows of the model are tenants, except the row of the shared schema."""
    assert tenancy.static_tenants == ()
    assert tenancy.fields == ("schema_name",)
    assert tenancy.tenants is not None
    assert "NOT" in str(tenancy.tenants.query)
    assert "public" in str(tenancy.tenants.query)


@pytest.mark.usefixtures("types", "tenant_models")
def test_tenants_of_several_types(
    tenancy: DjangoTenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The type of a tenant is its kind, which is read for one schema."""
    assert tenancy.fields == ("schema_name", "kind")
    asked = []

    class Rows:
        def using(self, alias: str) -> Rows:
            asked.append(alias)
            return self

        def filter(self, schema_name: str) -> Rows:
            asked.append(schema_name)
            return self

        def values_list(self, field: str, flat: bool) -> Rows:
            asked.append(field)
            return self

        def first(self) -> str | None:
            return "large" if "acme" in asked else None

    monkeypatch.setattr(DjangoTenants, "tenants", Rows())
    assert tenancy.kind_of("nothing") == ""
    assert tenancy.kind_of("acme") == "large"
    assert asked == ["default", "nothing", "kind", "default", "acme", "kind"]


def test_tenants_of_one_type(tenancy: DjangoTenants) -> None:
    """Without types all tenants are of one kind, and nothing is read."""
    assert tenancy.kind_of("acme") == ""


def test_order(tenancy: DjangoTenants, settings: Any) -> None:
    """The package's own setting is the default order."""
    assert tenancy.default_order == ()
    settings.TENANT_MIGRATION_ORDER = ["-size"]
    assert tenancy.default_order == ["-size"]


class Wrapper:
    """Stands for the connection of django-tenants."""

    def __init__(self) -> None:
        self.tenant: Any = "before"
        self.include_public_schema = False

    def set_schema(self, name: str, tenant_type: str | None) -> None:
        self.tenant, self.include_public_schema = (name, tenant_type), True

    def set_tenant(self, tenant: Any, include_public: bool) -> None:
        self.tenant, self.include_public_schema = tenant, include_public


def test_the_active_schema(tenancy: DjangoTenants) -> None:
    """The schema is active in the block, and the one from before is active afterwards."""
    wrapper: Any = Wrapper()
    with suppress(ZeroDivisionError), tenancy.active(wrapper, Tenant("a", "x")):
        assert wrapper.tenant == ("a", "x")
        raise ZeroDivisionError
    assert (wrapper.tenant, wrapper.include_public_schema) == ("before", False)


@pytest.mark.parametrize(
    ("options", "selection"),
    [
        ({}, Selection()),
        ({"shared": True, "tenant": True}, Selection()),
        ({"shared": True}, Selection(True, ())),
        ({"tenant": True}, Selection(False, None)),
        ({"schema_name": "acme"}, Selection(False, ("acme",))),
        ({"schema_name": "acme", "tenant": True}, Selection(False, ("acme",))),
        ({"schema_name": "public"}, Selection(True, ())),
    ],
)
def test_selection(
    tenancy: DjangoTenants, options: dict[str, Any], selection: Selection
) -> None:
    """`--shared`, `--tenant` and `--schema` name schemas, and no option names all."""
    assert tenancy.selection(options) == selection
    assert tenancy.names_schemas(options) is ("schema_name" in options)


def test_options_that_exclude_each_other(tenancy: DjangoTenants) -> None:
    """`--schema` with `--shared` is refused, as by the package."""
    with pytest.raises(CommandError, match="--tenant switch"):
        tenancy.selection({"schema_name": "acme", "shared": True})


@pytest.mark.parametrize(
    ("options", "values", "jobs"),
    [
        ({}, {}, 1),
        ({"executor": "standard"}, {"TENANT_MULTIPROCESSING_MAX_PROCESSES": 9}, 1),
        ({"executor": "multiprocessing"}, {}, 2),
        ({"executor": "multiprocessing"}, {"TENANT_MULTIPROCESSING_MAX_PROCESSES": 9}, 9),
        ({"executor": "subprocess"}, {}, 1),
        ({"executor": "subprocess"}, {"TENANT_SUBPROCESS_PARALLEL": 3}, 3),
        ({"executor": "subprocess", "parallel": 4}, {"TENANT_SUBPROCESS_PARALLEL": 3}, 4),
        ({"executor": "subprocess", "parallel": -4}, {}, 1),
    ],
)  # fmt: skip
def test_the_processes_of_an_executor(
    tenancy: DjangoTenants,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    values: dict[str, int],
    jobs: int,
) -> None:
    """An executor asks for as many processes as its settings and options say."""
    monkeypatch.delenv("EXECUTOR", raising=False)
    for name, value in values.items():
        setattr(settings, name, value)
    assert tenancy.jobs(options) == jobs


def test_the_executor_of_the_environment(
    tenancy: DjangoTenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment variable names the executor, unless an option does."""
    monkeypatch.setenv("EXECUTOR", "multiprocessing")
    assert tenancy.jobs({"executor": None}) == 2
    assert tenancy.jobs({"executor": "standard"}) == 1


class OwnMigrate(DjangoMigrate):
    """The command that a project runs in each schema."""


def test_the_base_command(tenancy: DjangoTenants, settings: Any) -> None:
    """The setting names the command that runs in each schema."""
    assert tenancy.base_migrate() is DjangoMigrate
    settings.TENANT_BASE_MIGRATE_COMMAND = f"{__name__}.OwnMigrate"
    assert tenancy.base_migrate() is OwnMigrate


def test_signals(tenancy: DjangoTenants) -> None:
    """The signals of the package are sent before and after the migrations of a schema."""
    sent = []

    def receive(signal: Any, schema_name: str, **kwargs: Any) -> None:
        sent.append((signal, schema_name))

    for signal in (schema_pre_migration, schema_migrated):
        signal.connect(receive)
    try:
        tenancy.before_migrate("acme")
        tenancy.after_migrate("acme")
    finally:
        for signal in (schema_pre_migration, schema_migrated):
            signal.disconnect(receive)
    assert sent == [(schema_pre_migration, "acme"), (schema_migrated, "acme")]


@pytest.mark.parametrize(
    ("middleware", "is_known"),
    [
        ([], False),
        (["mysite.middleware.Main"], False),
        (["django_tenants.middleware.TenantMainMiddleware"], True),
        ([MAIN], True),
        (["mysite.middleware.Main", MAIN], True),
    ],
)
@pytest.mark.usefixtures("tenant_models")
def test_hosts(
    tenancy: DjangoTenants, settings: Any, middleware: list[str], is_known: bool
) -> None:
    """The host tells the tenant with the package's own middleware, under both of its names."""
    settings.MIDDLEWARE = middleware
    assert (tenancy.hosts is not None) is is_known
    assert tenancy.static_hosts == {}
