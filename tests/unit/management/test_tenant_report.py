"""The text of `safe_init_status` about the schemas of tenants."""

from __future__ import annotations

from django_safe_init.core.schemas import (
    FailedSchemas,
    SchemaFailure,
    SchemaProgress,
    TenantState,
    TenantStatus,
)
from django_safe_init.core.states import State
from django_safe_init.management.tenant_report import (
    format_counts,
    format_tenant,
    format_tenants,
)
from django_safe_init.status import Status

PENDING = tuple(f"shop.{number:04}" for number in range(9))


def status(progress: SchemaProgress | None, failed: FailedSchemas) -> Status:
    return Status(
        "default", State.ERROR, 0, "", schemas=progress, failed_schemas=failed
    )


def test_counts() -> None:
    """The numbers, and the first failed schemas with their errors on one printable line."""
    failed = FailedSchemas(3, (SchemaFailure("a\nb", "ValueError: x"),))
    lines = list(format_counts(status(SchemaProgress(1000, 412, 3), failed)))
    assert lines == [
        "  tenants' schemas: 412 of 1,000 up to date, 3 failed, 585 pending",
        r"    failed: a\nb: ValueError: x",
        "    and 2 more, which --schemas lists",
    ]


def test_no_counts() -> None:
    """A database without tenants has no line, and one whose tenants are done has one."""
    nothing = FailedSchemas()
    assert list(format_counts(status(None, nothing))) == []
    assert list(format_counts(status(SchemaProgress(0), nothing))) == []
    assert list(format_counts(status(SchemaProgress(2, 2), nothing))) == [
        "  tenants' schemas: 2 of 2 up to date"
    ]


def test_table() -> None:
    """The table begins with the failed schemas, and its heading counts the states."""
    tenants = [
        TenantStatus("a", TenantState.UP_TO_DATE, 12, 0.5),
        TenantStatus("b", TenantState.MISSING),
        TenantStatus("c", TenantState.FAILED, 12, 1.5, "ValueError: x"),
        TenantStatus("d", TenantState.BEHIND),
    ]
    assert list(format_tenants("default", tenants)) == [
        "default: 1 up to date, 1 missing, 1 behind, 1 failed",
        "schema  state       run    took  error",
        "c       failed       12  1.50 s  ValueError: x",
        "d       behind",
        "b       missing",
        "a       up to date   12  0.50 s",
    ]
    assert list(format_tenants("default", [])) == ["default: no tenants"]


def test_one_schema() -> None:
    """One schema is shown with its run, its error and the migrations that it lacks."""
    failed = TenantStatus("c", TenantState.FAILED, 12, 1.5, "ValueError: x", PENDING)
    assert list(format_tenant("default", failed, show_all=False)) == [
        "default: schema c - failed",
        "  run: 12",
        "  took: 1.50 s",
        "  error: ValueError: x",
        "  to apply (9): shop.0000, shop.0001, shop.0002 and 6 more"
        " (--verbosity 2 shows all)",
    ]
    assert len(list(format_tenant("default", failed, show_all=True))) == 14
    behind = TenantStatus("d", TenantState.BEHIND)
    assert list(format_tenant("default", behind, show_all=False)) == [
        "default: schema d - behind"
    ]
