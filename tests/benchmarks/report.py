"""The figures of a run of the benchmarks, and their formats."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median

import django

from django_safe_init.version import __version__

HEADINGS = ("measure", "baseline", "ours", "figure", "limit", "")


@dataclass(frozen=True)
class Figure:
    """The result of one measure. Samples are in seconds, in the order of measuring."""

    measure: str
    figure: str
    limit: str
    ok: bool
    ours: Sequence[float] = ()
    baseline: Sequence[float] = ()
    notes: Sequence[str] = field(default=())
    #: The limit for the median of `ours`.
    limit_seconds: float | None = None
    #: The subject of the measure, and its importance.
    meaning: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the figure as a row of the table, with the medians of its samples."""
        return (
            self.measure,
            seconds(median(self.baseline)) if self.baseline else "",
            seconds(median(self.ours)) if self.ours else "",
            self.figure,
            self.limit,
            "ok" if self.ok else "over",
        )


def seconds(value: float) -> str:
    """Format seconds for people: 1.23 s, 45.6 ms, 7.8 µs."""
    if value < 1e-4:
        return f"{value * 1e6:.1f} µs"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def table(figures: Sequence[Figure]) -> str:
    """Return all figures as an aligned table, followed by the notes."""
    rows = [HEADINGS, *(figure.cells() for figure in figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    notes = [f"{figure.measure}: {note}" for figure in figures for note in figure.notes]
    return "\n".join(line.rstrip() for line in lines + notes)


def machine(server: str) -> str:
    """Return one line about the machine and the versions."""
    return " · ".join(
        (
            f"{platform.system()} {platform.machine()}",
            f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.1f})",
            f"Python {platform.python_version()}",
            f"Django {django.get_version()}",
            f"psycopg {version('psycopg')}",
            f"PostgreSQL {server}",
            f"django-safe-init {__version__}",
        )
    )


@dataclass(frozen=True)
class Results:
    """The figures of one run of the benchmarks."""

    #: The day in UTC, in ISO 8601 format.
    date: str
    machine: str
    figures: Sequence[Figure]

    def write(self, path: Path) -> None:
        """Write all measurements, including every sample, as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read the results that `write` has written."""
        content = json.loads(path.read_text())
        figures = [Figure(**figure) for figure in content["figures"]]
        return cls(content["date"], content["machine"], figures)


def today() -> str:
    """Return the present day in UTC."""
    return datetime.now(timezone.utc).date().isoformat()
