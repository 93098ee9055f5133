"""The collector for Prometheus."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections

from django_safe_init import initialize
from django_safe_init.backends.postgresql.schema import RUN_TABLE
from django_safe_init.core.schemas import SchemaProgress
from django_safe_init.core.states import State
from django_safe_init.exceptions import InitializationFailed
from django_safe_init.status import Status
from tests.support import PATIENCE, Database, wait_until

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from django_safe_init.contrib import prometheus
from django_safe_init.contrib.prometheus import SafeInitCollector, Sample, metrics

PREFIX = "django_safe_init_"


@pytest.fixture
def project(django_database: Database, small_shop: Any) -> Database:
    """A project with two unapplied migrations."""
    return django_database


def scrape(collector: SafeInitCollector | None = None) -> dict[str, float]:
    """Return the samples of a scrape by name and labels, without our prefix."""
    registry = CollectorRegistry()
    registry.register(collector or SafeInitCollector())
    text = generate_latest(registry).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k != "database"}
            key = " ".join([sample.name.removeprefix(PREFIX), *labels.values()])
            found[key] = sample.value
    return found


# Metrics


def test_uninitialized(project: Database) -> None:
    """An empty database has all migrations pending, no run, and is up."""
    assert scrape() == {
        "up": 1,
        **{f"state {state.value}": state.value == "uninitialized" for state in State},
        "migrations_pending": 2,
        "migrations_applied": 0,
        "progress_ratio": 0,
    }


def test_ready(project: Database) -> None:
    """After a run no migration is pending, and the run's result and times are known."""
    before = time.time()
    call_command("safe_migrate", verbosity=0)
    found = scrape()
    assert found["state ready"] == found["run_result ready"] == 1
    assert found["migrations_pending"] == found["run_result failed"] == 0
    assert found["migrations_applied"] == 2
    assert found["progress_ratio"] == found["runs_total"] == 1
    assert 0 < found["run_duration_seconds"] < time.time() - before + 5
    for name in ("heartbeat_timestamp_seconds", "last_success_timestamp_seconds"):
        assert before - 5 < found[name] < time.time() + 5


def test_failed(project: Database, small_shop: Any) -> None:
    """After a failure the last success is still known, and the error is not shown."""
    call_command("safe_migrate", verbosity=0)
    first = scrape()

    def fail(connection: Any) -> None:
        raise ValueError("a secret")

    small_shop.run("0003_fail", fail)
    with pytest.raises(InitializationFailed):
        initialize()
    found = scrape()
    assert found["state error"] == found["run_result failed"] == 1
    assert found["runs_total"] == 2
    assert found["migrations_pending"] == 1
    same = "last_success_timestamp_seconds"
    assert found[same] == first[same]
    assert not [key for key in found if re.search("secret|0003|shop", key)]


def test_long_without_success(project: Database) -> None:
    """A success that is too far back is left out."""
    call_command("safe_migrate", verbosity=0)
    project.rows(f"UPDATE {RUN_TABLE} SET outcome = 'failed', state = 'error'")
    assert "last_success_timestamp_seconds" not in scrape()


def test_open_run(project: Database) -> None:
    """An open run has the result "open", and a heartbeat that ages."""
    call_command("safe_migrate", verbosity=0)
    project.rows(
        f"UPDATE {RUN_TABLE} SET outcome = NULL, finished_at = NULL,"
        " heartbeat_at = heartbeat_at - interval '1 hour'"
    )
    found = scrape()
    assert found["run_result open"] == found["state error"] == 1
    assert time.time() - found["heartbeat_timestamp_seconds"] > 3500


def test_sqlite(lite: Any, small_shop: Any, monkeypatch: Any) -> None:
    """SQLite has the same metrics, with times in UTC whatever the local time zone."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        before = time.time()
        call_command("safe_migrate", verbosity=0)
        found = scrape()
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found["state ready"] == found["run_result ready"] == 1
    assert (found["migrations_applied"], found["runs_total"]) == (2, 1)
    for name in ("heartbeat_timestamp_seconds", "last_success_timestamp_seconds"):
        assert before - 5 < found[name] < time.time() + 5


def test_openmetrics(project: Database) -> None:
    """The metrics are valid OpenMetrics."""
    call_command("safe_migrate", verbosity=0)
    registry = CollectorRegistry()
    registry.register(SafeInitCollector())
    text = openmetrics(registry).decode()
    assert "# TYPE django_safe_init_runs counter" in text
    assert 'django_safe_init_runs_total{database="default"} 1.0' in text


def test_several_databases(
    project: Database, make_database: Callable[..., Database], settings: Any
) -> None:
    """Each database has its metrics, also while another one is unreachable."""
    settings.SAFE_INIT = {"IN_TESTS": True, "DATABASES": ["default", "other"]}
    connections.settings["other"] = {
        **connections.settings["default"],
        "NAME": "no such database",
    }
    try:
        registry = CollectorRegistry()
        registry.register(SafeInitCollector())
        text = generate_latest(registry).decode()
    finally:
        del connections["other"], connections.settings["other"]
    assert 'django_safe_init_up{database="default"} 1.0' in text
    assert 'django_safe_init_up{database="other"} 0.0' in text
    assert 'django_safe_init_state{database="other"' not in text


# Side effects


def test_registering_touches_no_database(project: Database, monkeypatch: Any) -> None:
    """Registering a collector opens no connection, and its names are known."""
    looks = []
    monkeypatch.setattr(prometheus, "open_reader", lambda *args: looks.append(args))
    registry = CollectorRegistry(auto_describe=True)
    registry.register(SafeInitCollector())
    assert looks == []
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(SafeInitCollector())


def test_scrapes_share_samples(project: Database, monkeypatch: Any) -> None:
    """Simultaneous scrapes, and scrapes within a second, share one set of samples."""
    looks = []
    see = prometheus.sample
    monkeypatch.setattr(
        prometheus, "sample", lambda *args: looks.append(args) or see(*args)
    )
    collector = SafeInitCollector()
    with ThreadPoolExecutor(8) as threads:
        every = list(threads.map(lambda _: list(collector.collect()), range(8)))
    assert len(looks) == 1
    assert all(each == every[0] for each in every)


def test_later_scrapes_read_again(project: Database, monkeypatch: Any) -> None:
    """A later scrape has new samples."""
    monkeypatch.setattr(prometheus, "MIN_SECONDS_BETWEEN_SAMPLES", 0)
    collector = SafeInitCollector()
    assert scrape(collector)["state ready"] == 0
    call_command("safe_migrate", verbosity=0)
    assert scrape(collector)["state ready"] == 1


def test_nothing_stays_open(project: Database) -> None:
    """A scrape leaves no connection open, and none to Django."""
    scrape()
    assert connections["default"].connection is None
    wait_until(lambda: project.backends() == [])  # a session needs time to end


def test_hanging_server(project: Database, log_in_as: Any, caplog: Any) -> None:
    """A database server that never answers delays a scrape by seconds, without an error."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        log_in_as(HOST="127.0.0.1", PORT=listener.getsockname()[1])
        assert scrape() == {"up": 0}
    [record] = [r for r in caplog.records if r.name == "django_safe_init"]
    assert record.getMessage().startswith("default cannot be measured: ")
    assert record.exc_info is None


def test_locked_tables(project: Database) -> None:
    """While a migration locks our tables, the state is known and the run is not."""
    call_command("safe_migrate", verbosity=0)
    with project.connect() as session, session.transaction():
        session.execute(f"LOCK TABLE {RUN_TABLE} IN ACCESS EXCLUSIVE MODE")
        found = scrape()
    assert found["up"] == found["state migrating"] == 1
    assert "runs_total" not in found


@pytest.mark.parametrize(
    "safe_init", [{}, {"no such key": 1}], ids=["own tests", "wrong settings"]
)
def test_nothing_to_measure(project: Database, settings: Any, safe_init: Any) -> None:
    """In a project's own tests, and with invalid settings, a scrape has no samples."""
    settings.SAFE_INIT = safe_init
    assert scrape() == {}


# Several workers

_WORKER = """
import django
from django.conf import settings
import json, os
settings.configure(
    INSTALLED_APPS=["django_safe_init"],
    DATABASES={"default": json.loads(os.environ["DATABASE"])},
)
django.setup()
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from django_safe_init.contrib.prometheus import SafeInitCollector
Counter("requests", "Of this worker.").inc()
registry = CollectorRegistry()
MultiProcessCollector(registry)
registry.register(SafeInitCollector())
print(generate_latest(registry).decode())
"""


def test_multiprocess_mode(
    django_database: Database, settings: Any, tmp_path: Any
) -> None:
    """In multiprocess mode all workers report the same, without a process ID."""
    environment = {
        **os.environ,
        "DATABASE": json.dumps(django_database.settings()),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
    }
    outputs = [
        subprocess.run(
            [sys.executable, "-c", _WORKER],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        ).stdout
        for _ in range(2)
    ]
    assert "requests_total 1.0" in outputs[0]
    assert "requests_total 2.0" in outputs[1]
    first, second = (
        [line for line in output.splitlines() if line.startswith(PREFIX)]
        for output in outputs
    )
    assert first == second
    assert 'django_safe_init_up{database="default"} 1.0' in first
    assert not [line for line in first if "pid" in line]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-01T00:00:00+00:00", 1767225600.0),
        ("infinity", None),
        ("2026-13-01T00:00:00+00:00", None),
        ("0001-01-01T00:00:00", None),
    ],
)
def test_odd_times(text: str, expected: float | None) -> None:
    """A time of the database that has no number of seconds is left out."""
    assert prometheus.timestamp(text) == expected


def test_schemas_of_tenants() -> None:
    """The schemas of tenants are counted by state, without a label for each tenant."""
    status = Status(
        "default",
        State.MIGRATING,
        41,
        "",
        schemas=SchemaProgress(1000, 412, 2),
        behind=("t1",),
    )
    families = {each.name: each for each in metrics([Sample("default", status)])}
    samples = families[f"{PREFIX}schemas"].samples
    assert [(sample.labels, sample.value) for sample in samples] == [
        ({"database": "default", "state": "done"}, 412),
        ({"database": "default", "state": "failed"}, 2),
        ({"database": "default", "state": "pending"}, 586),
    ]
