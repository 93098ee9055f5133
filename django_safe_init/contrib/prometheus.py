"""Metrics for Prometheus, read from the databases at each scrape. Needs the extra `prometheus`.

They do not come from `readiness`: a process stops polling once it is ready, and each worker
would report another moment. Read from the database, the metrics of all workers and replicas
agree, so they need no sum and no label for the process.
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
from django_safe_init.core.schemas import SchemaProgress
from django_safe_init.core.states import State
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import ConfigurationError
from django_safe_init.status import Status, open_reader, read_status

logger = logging.getLogger("django_safe_init")

#: The connection timeout. By default a scrape of all collectors has ten seconds.
CONNECT_SECONDS = 2.0
#: More frequent scrapes get the last samples again.
MIN_SECONDS_BETWEEN_SAMPLES = 1.0
#: The number of runs that are searched for the last success.
RECENT_RUNS = 20
RESULTS = ("open", *OUTCOMES)


@dataclasses.dataclass(frozen=True)
class Sample:
    """The state of one database at a scrape. Without a status the database was unreadable."""

    database: str
    status: Status | None = None
    #: The migrations of this build.
    known: frozenset[str] = frozenset()
    #: Those which a squashed migration of this build replaces. They do not count.
    replaced: frozenset[str] = frozenset()
    #: The end of the newest run that ended ready, in seconds since the epoch.
    last_success: float | None = None


class SafeInitCollector(Collector):
    """A collector for the databases of `SAFE_INIT`: `REGISTRY.register(SafeInitCollector())`.

    Registering it opens no connection. A scrape opens one connection per database for two
    queries, waits for a few seconds at most, and never raises. Simultaneous scrapes share one
    set of samples. In a project's own tests it has no metrics.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._build: Build | None = None
        self._samples: list[Sample] = []
        self._sampled_at = float("-inf")

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without samples, for the registry."""
        return metrics([])

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of the databases, at most `MIN_SECONDS_BETWEEN_SAMPLES` old."""
        with self._lock:
            if time.monotonic() - self._sampled_at >= MIN_SECONDS_BETWEEN_SAMPLES:
                self._samples = self._sample_all()
                self._sampled_at = time.monotonic()
            return metrics(self._samples)

    def _sample_all(self) -> list[Sample]:
        try:
            settings = get_settings()
        except ConfigurationError:  # the system checks report it
            return []
        if in_project_tests(settings):
            return []
        return [self._sample(database) for database in settings.databases]

    def _sample(self, database: str) -> Sample:
        try:
            self._build = self._build or current_build()
            return sample(database, self._build)
        except Exception as exc:  # noqa: BLE001  (an error would lose all other metrics)
            logger.warning(
                "%s cannot be measured: %s: %s",
                database,
                type(exc).__name__,
                one_line(exc),
            )
            return Sample(database)


def sample(database: str, build: Build) -> Sample:
    """Read a database over a short connection. Raises any error of the reader."""
    settings = dataclasses.replace(get_settings(), connect_timeout=CONNECT_SECONDS)
    reader = open_reader(database, settings, Deadline(0), build)
    with closing(reader):
        status = read_status(database, reader)
        # Without a run, the table is empty or locked by a migration.
        runs = reader.history(RECENT_RUNS) if status.run else []
    replaced = frozenset[str]().union(*build.replacements.values())
    return Sample(database, status, build.migrations, replaced, last_success(runs))


def last_success(runs: Sequence[RunRow]) -> float | None:
    """Return the end of the newest run that ended ready, or None."""
    for run in runs:
        if run.outcome == "ready" and run.finished_at:
            return timestamp(run.finished_at)
    return None


def timestamp(text: str) -> float | None:
    """Return a time of the database in seconds since the epoch; None for an infinite one."""
    try:
        moment = parse_datetime(text)
        return moment.timestamp() if moment is not None else None
    except (ValueError, OverflowError):
        return None


def metrics(samples: Sequence[Sample]) -> list[Metric]:
    """Return the samples as metrics; the database is a label of each."""
    families = _Families()
    for each in samples:
        families.add(each)
    return list(vars(families).values())


class _Families:
    """The metrics of one scrape."""

    def __init__(self) -> None:
        self.up = _gauge("up", "Whether the database could be read for this scrape.")
        self.state = _gauge("state", "1 for the state there is, 0 for others.", "state")
        self.pending = _gauge(
            "migrations_pending",
            "Migrations of this build that are not applied.",
        )
        self.applied = _gauge(
            "migrations_applied",
            "Migrations of this build that are applied.",
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

        self.schemas = _gauge(
            "schemas", "Schemas of tenants in each state for this build.", "state"
        )

    def add(self, sample: Sample) -> None:
        """Add the sample of one database."""
        database, status = [sample.database], sample.status
        self.up.add_metric(database, float(status is not None))
        if status is None:
            return
        for state in State:
            self.state.add_metric(
                [*database, state.value], float(state is status.state)
            )
        pending = len(sample.known.intersection(status.pending))
        self.pending.add_metric(database, pending)
        known = len(sample.known - sample.replaced)
        # Of a squashed migration that is applied in part, several may be pending.
        self.applied.add_metric(database, max(0, known - pending))
        self.progress.add_metric(database, status.progress / 100)
        if status.schemas is not None:
            self._add_schemas(database, status.schemas)
        if sample.last_success is not None:
            self.last_success.add_metric(database, sample.last_success)
        if status.run is not None:
            self._add_run(database, status.run)

    def _add_schemas(self, database: list[str], schemas: SchemaProgress) -> None:
        """Add the numbers. A label for each tenant would make a series for each."""
        for state, number in (
            ("done", schemas.done),
            ("failed", schemas.failed),
            ("pending", schemas.pending),
        ):
            self.schemas.add_metric([*database, state], number)

    def _add_run(self, database: list[str], run: RunRow) -> None:
        self.runs.add_metric(database, run.id)
        for result in RESULTS:
            self.result.add_metric([*database, result], float(result == run.result))
        self.duration.add_metric(database, run.duration_seconds)
        started = timestamp(run.started_at)
        if started is not None:
            heartbeat = started + run.age_seconds - run.silence_seconds
            self.heartbeat.add_metric(database, heartbeat)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(
        f"django_safe_init_{name}", text, labels=["database", *labels]
    )
