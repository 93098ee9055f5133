"""Text of `safe_init_status` about the schemas of tenants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from django_safe_init.core.schemas import TenantState, TenantStatus
from django_safe_init.core.text import format_duration, printable
from django_safe_init.management.console import aligned_rows, format_names
from django_safe_init.status import Status

_HEADINGS = ("schema", "state", "run", "took", "error")
#: The headings of columns with numbers.
_NUMBERS = frozenset({"run", "took"})
#: The first one is the most urgent.
_ORDER = (
    TenantState.FAILED,
    TenantState.BEHIND,
    TenantState.MISSING,
    TenantState.UP_TO_DATE,
)


def format_counts(status: Status) -> Iterator[str]:
    """Yield the lines about the tenants' schemas of a database; none without tenants."""
    schemas = status.schemas
    if schemas is None or not schemas.total:
        return
    yield (
        f"  tenants' schemas: {schemas.done:,} of {schemas.total:,} up to date"
        + "".join(
            f", {number:,} {label}"
            for number, label in (
                (schemas.failed, "failed"),
                (schemas.pending, "pending"),
            )
            if number
        )
    )
    failed = status.failed_schemas
    yield from (
        printable(f"    failed: {each.schema}: {each.error}") for each in failed.first
    )
    more = failed.number - len(failed.first)
    if more > 0:
        yield f"    and {more:,} more, which --schemas lists"


def format_tenants(database: str, tenants: Sequence[TenantStatus]) -> Iterator[str]:
    """Yield the lines about all tenants: the numbers, and a table with the failed ones first."""
    numbers = {state: sum(each.state is state for each in tenants) for state in _ORDER}
    counted = ", ".join(
        f"{numbers[state]:,} {state.label}"
        for state in reversed(_ORDER)
        if numbers[state]
    )
    yield printable(f"{database}: {counted or 'no tenants'}")
    if tenants:
        ordered = sorted(tenants, key=lambda each: _ORDER.index(each.state))
        rows = [_HEADINGS, *map(_cells, ordered)]
        yield from aligned_rows(rows, _NUMBERS)


def format_tenant(
    database: str, tenant: TenantStatus, *, show_all: bool
) -> Iterator[str]:
    """Yield the lines about one tenant."""
    yield printable(f"{database}: schema {tenant.schema} - {tenant.state.label}")
    if tenant.run is not None:
        yield f"  run: {tenant.run}"
    if tenant.seconds is not None:
        yield f"  took: {format_duration(tenant.seconds)}"
    if tenant.error is not None:
        yield printable(f"  error: {tenant.error}")
    for line in format_names("to apply", tenant.pending or (), show_all=show_all):
        yield printable(line)


def _cells(tenant: TenantStatus) -> tuple[str, ...]:
    cells = (
        tenant.schema,
        tenant.state.label,
        "" if tenant.run is None else str(tenant.run),
        "" if tenant.seconds is None else format_duration(tenant.seconds),
        tenant.error or "",
    )
    return tuple(map(printable, cells))
