"""Checks of the result, read from the replicas' exit codes and from the database."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import psycopg
from django.db.migrations.loader import MigrationLoader

from .fleet import Fleet
from .killer import Killer

DATA_MIGRATIONS = ("catalog.0006_opening_assortment", "catalog.0013_backfill_prices")
# The step of `catalog.init_steps` that inserts rows, and an entry in the change log.
STEP = "catalog.opening_stock"
# The second data migration inserts a year of daily prices for each of the first one's products.
PRICES = 12 * 365


@dataclass(frozen=True)
class Check:
    """A statement about the result, and whether it is true."""

    passed: bool
    text: str


@dataclass(frozen=True)
class Traces:
    """The traces of the replicas in the database: records and executions of each migration."""

    recorded: Counter[str]
    ran: Counter[str]
    prices: int


@cache
def migrations_on_disk() -> set[str]:
    """Return the names of all migrations of the installed apps."""
    return {f"{app}.{name}" for app, name in MigrationLoader(None).disk_migrations}


def read_traces(connection: psycopg.Connection[Any]) -> Traces:
    """Read the traces. A table that does not exist counts as empty."""
    recorded = _rows(
        connection,
        "django_migrations",
        "SELECT app || '.' || name, count(*) FROM {} GROUP BY 1",
    )
    ran = _rows(
        connection, "catalog_changelog", "SELECT migration, count(*) FROM {} GROUP BY 1"
    )
    prices = _rows(connection, "catalog_productprice", "SELECT count(*) FROM {}")
    return Traces(
        Counter(dict(recorded)), Counter(dict(ran)), prices[0][0] if prices else 0
    )


def _rows(connection: psycopg.Connection[Any], table: str, query: str) -> list[Any]:
    there = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [table]).fetchone()
    if not there or not there[0]:
        return []
    return connection.execute(query.format(table)).fetchall()


def check_exit_codes(fleet: Fleet) -> Check:
    """Check that every replica that was not killed exited with 0."""
    living = [replica for replica in fleet.replicas if not replica.killed]
    codes = Counter(replica.exit_code for replica in living)
    text = f"{codes[0]} of {len(living)} replicas exited 0"
    others = [
        "still running" if code is None else str(code) for code in codes if code != 0
    ]
    if others:
        return Check(False, f"{text}, the others {', '.join(others)}")
    return Check(
        True, text if len(living) == fleet.size else f"{text}; the leader was killed"
    )


def check_records(traces: Traces) -> Check:
    """Check that every migration on disk is recorded exactly once."""
    expected = migrations_on_disk()
    missing = expected - set(traces.recorded)
    repeated = {name: count for name, count in traces.recorded.items() if count > 1}
    if not missing and not repeated:
        return Check(True, f"all {len(expected)} migrations are recorded, each once")
    if not missing and len(repeated) == 1:
        [(name, count)] = repeated.items()
        return Check(False, f"{name} is recorded {times(count)}")
    parts = (
        [f"{len(missing)} of {len(expected)} migrations are not recorded"]
        if missing
        else []
    )
    if repeated:
        parts.append(
            f"{len(repeated)} migrations are recorded up to {times(max(repeated.values()))}"
        )
    return Check(False, ", ".join(parts))


def check_data_migrations(traces: Traces) -> list[Check]:
    """Check that each data migration ran once, and that no price is duplicated."""
    checks = [
        Check(
            traces.ran[name] == 1, f"the data migration {name} {ran(traces.ran[name])}"
        )
        for name in DATA_MIGRATIONS
    ]
    if traces.prices > PRICES:
        checks.append(
            Check(
                False,
                f"{traces.prices:,} prices are in the table instead of {PRICES:,}",
            )
        )
    return checks


def check_step(traces: Traces) -> Check:
    """Check that the step `STEP` ran once."""
    return Check(traces.ran[STEP] == 1, f"the step {STEP} {ran(traces.ran[STEP])}")


def check_leader(fleet: Fleet) -> Check:
    """Check that one replica led and applied every migration."""
    leaders = [
        replica for replica in fleet.replicas if replica.report.get("role") == "leader"
    ]
    working = [replica for replica in fleet.replicas if replica.report.get("applied")]
    if len(leaders) != 1 or working != leaders:
        return Check(
            False, f"{len(leaders)} replicas led, {len(working)} applied migrations"
        )
    count, expected = len(leaders[0].report["applied"]), len(migrations_on_disk())
    return Check(
        count == expected,
        f"one leader, replica {leaders[0].number}, applied all {count} migrations",
    )


def check_takeover(killer: Killer) -> Check:
    """Check that another replica took over from the killed leader."""
    if killer.victim is None:
        return Check(
            False, "the leader was done before it could be killed in the middle"
        )
    if killer.successor is None:
        return Check(False, f"nobody took over from replica {killer.victim.number}")
    seconds = f"{killer.takeover_seconds:.2f} s"
    names = f"replica {killer.successor.number} took over from replica {killer.victim.number}"
    return Check(True, f"{names}, {seconds} after it was killed")


def times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def ran(count: int) -> str:
    return f"ran {times(count)}" if count else "never ran"
