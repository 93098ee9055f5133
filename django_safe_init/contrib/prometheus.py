"""Metrics for Prometheus, of what is true in the database when it is scraped.

They are read from the database and not from what this process knows: a process stops looking
once it is ready, and several workers would each remember another moment. So all workers and
all replicas say the same, there is nothing to add up, and no process id among the labels.
Nothing else imports this module; it needs the extra `prometheus`.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import closing

from django.utils.dateparse import parse_datetime
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from django_safe_init.conf import get_settings, in_project_tests
from django_safe_init.core.build import Build, current_build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import OUTCOMES, RunRow
from django_safe_init.core.states import State
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import ConfigurationError
from django_safe_init.status import Status, open_reader, read_status

logger = logging.getLogger("django_safe_init")

#: A scrape has ten seconds by default, for all databases and all other collectors.
CONNECT_SECONDS = 2.0
#: Whoever scrapes more often gets the same answer again.
LEAST_SECONDS_BETWEEN_LOOKS = 1.0
#: How many runs back a success is looked for.
RECENT_RUNS = 20
RESULTS = ("open", *OUTCOMES)


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a scrape saw of one database; without a status it saw nothing."""

    database: str
    status: Status | None = None
    #: The migrations that this build knows.
    known: frozenset[str] = frozenset()
    #: When the newest run that ended ready did so, in seconds since the epoch.
    last_success: float | None = None


class SafeInitCollector(Collector):
    """Collects the metrics of `SAFE_INIT["DATABASES"]`: `REGISTRY.register(SafeInitCollector())`.

    To make one, or to register it, touches no database. A scrape opens one connection a
    database, for two queries, and waits no longer than a few seconds; it never raises. Two
    scrapes at the same moment share one look. Empty in a project's own tests.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._build: Build | None = None
        self._seen: list[Sample] = []
        self._looked_at = float("-inf")

    def describe(self) -> Iterable[Metric]:
        """The names alone, for who registers the collector."""
        return metrics([])

    def collect(self) -> Iterable[Metric]:
        """The metrics as the databases are now."""
        with self._lock:
            if time.monotonic() - self._looked_at >= LEAST_SECONDS_BETWEEN_LOOKS:
                self._seen = self._look()
                self._looked_at = time.monotonic()
            return metrics(self._seen)

    def _look(self) -> list[Sample]:
        try:
            settings = get_settings()
        except ConfigurationError:  # the system checks have said so
            return []
        if in_project_tests(settings):
            return []
        return [self._look_at(database) for database in settings.databases]

    def _look_at(self, database: str) -> Sample:
        try:
            self._build = self._build or current_build()
            return sample(database, self._build)
        except Exception as exc:  # noqa: BLE001  (else all other metrics would be lost too)
            logger.warning(
                "%s cannot be measured: %s: %s",
                database,
                type(exc).__name__,
                one_line(exc),
            )
            return Sample(database)


def sample(database: str, build: Build) -> Sample:
    """Look at a database over a short connection; raises whatever goes wrong."""
    settings = dataclasses.replace(get_settings(), connect_timeout=CONNECT_SECONDS)
    reader = open_reader(database, settings, Deadline(0), build)
    with closing(reader):
        status = read_status(database, reader)
        # Without a run there are none, or a migration has locked the table.
        runs = reader.history(RECENT_RUNS) if status.run else []
    return Sample(database, status, build.migrations, last_success(runs))


def last_success(runs: Sequence[RunRow]) -> float | None:
    """When the newest of the runs that ended ready did so."""
    for run in runs:
        if run.outcome == "ready" and run.finished_at:
            return timestamp(run.finished_at)
    return None


def timestamp(text: str) -> float:
    """A time of the database in seconds since the epoch."""
    moment = parse_datetime(text)
    assert moment is not None  # it is the database's own
    return moment.timestamp()


def metrics(seen: Sequence[Sample]) -> list[Metric]:
    """What was seen, as metrics; the database is a label of each."""
    families = _Families()
    for sight in seen:
        families.add(sight)
    return list(vars(families).values())


class _Families:
    """The metrics of one scrape."""

    def __init__(self) -> None:
        self.up = _gauge("up", "Whether the database could be read for this scrape.")
        self.state = _gauge("state", "1 for the state there is, 0 for others.", "state")
        self.pending = _gauge(
            "migrations_pending",
            "Migrations that this build knows and the database has not recorded.",
        )
        self.applied = _gauge(
            "migrations_applied",
            "Migrations that this build knows and the database has recorded.",
        )
        self.progress = _gauge("progress_ratio", "How far the work is, from 0 to 1.")
        self.runs = CounterMetricFamily(
            "django_safe_init_runs",
            "Runs so far: the number of the newest one.",
            labels=["database"],
        )
        self.result = _gauge(
            "run_result", "1 for how the newest run ended, 0 for others.", "result"
        )
        self.duration = _gauge(
            "run_duration_seconds", "How long the newest run took, or has taken so far."
        )
        self.heartbeat = _gauge(
            "heartbeat_timestamp_seconds",
            "When the leader of the newest run gave its last sign of life.",
        )
        self.last_success = _gauge(
            "last_success_timestamp_seconds",
            f"When a run ended ready, if one of the newest {RECENT_RUNS} did.",
        )

    def add(self, sight: Sample) -> None:
        """Add what was seen of one database."""
        database, status = [sight.database], sight.status
        self.up.add_metric(database, float(status is not None))
        if status is None:
            return
        for state in State:
            self.state.add_metric(
                [*database, state.value], float(state is status.state)
            )
        pending = len(sight.known.intersection(status.pending))
        self.pending.add_metric(database, pending)
        self.applied.add_metric(database, len(sight.known) - pending)
        self.progress.add_metric(database, status.progress / 100)
        if sight.last_success is not None:
            self.last_success.add_metric(database, sight.last_success)
        if status.run is not None:
            self._add_run(database, status.run)

    def _add_run(self, database: list[str], run: RunRow) -> None:
        self.runs.add_metric(database, run.id)
        for result in RESULTS:
            self.result.add_metric([*database, result], float(result == run.result))
        self.duration.add_metric(database, run.duration_seconds)
        heartbeat = timestamp(run.started_at) + run.age_seconds - run.silence_seconds
        self.heartbeat.add_metric(database, heartbeat)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(
        f"django_safe_init_{name}", text, labels=["database", *labels]
    )
