"""Names of schemas that a person gives are checked against the tenants."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from django_safe_init.backends.tenants import Tenant
from django_safe_init.exceptions import ConfigurationError
from django_safe_init.initialization.schemas.names import check_schemas


class Tenants:
    """The tenant model's query, with two rows."""

    def __init__(self, names: tuple[str, ...] = ("acme", "beta")) -> None:
        self.names = names

    def using(self, alias: str) -> Tenants:
        assert alias == "default"
        return self

    def filter(self, schema_name__in: set[str]) -> Tenants:
        return Tenants(tuple(schema_name__in.intersection(self.names)))

    def values_list(self, field: str, flat: bool) -> tuple[str, ...]:
        assert (field, flat) == ("schema_name", True)
        return self.names


def tenancy(tenants: Tenants | None) -> Any:
    return SimpleNamespace(
        alias="default",
        tenants=tenants,
        shared_schema="public",
        static_tenants=(Tenant("www"),),
        fields=("schema_name",),
    )


@pytest.mark.parametrize("names", [(), ("public", "www"), ("acme",), ("www", "beta")])
def test_known_names(names: tuple[str, ...]) -> None:
    """The shared schema, static tenants and rows of the tenant model are known."""
    check_schemas(tenancy(Tenants()), names)


def test_static_tenants_only() -> None:
    """Without a tenant model, only static tenants are known."""
    check_schemas(tenancy(None), ["www"])
    with pytest.raises(ConfigurationError, match="has the schema acme"):
        check_schemas(tenancy(None), ["www", "acme"])


def test_unknown_names() -> None:
    """The error names what no tenant has."""
    with pytest.raises(ConfigurationError, match="has the schema gone, zeta"):
        check_schemas(tenancy(Tenants()), ["zeta", "acme", "gone"])
