"""What a measure found, and how it is shown."""

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
    """The result of one measure. Samples are seconds, in the order they were taken."""

    measure: str
    figure: str
    limit: str
    ok: bool
    ours: Sequence[float] = ()
    baseline: Sequence[float] = ()
    notes: Sequence[str] = field(default=())
    #: What `ours` may be at most, as the median of the samples.
    limit_seconds: float | None = None
    #: What is measured, and why it matters.
    meaning: str = ""

    def cells(self) -> tuple[str, ...]:
        """The figure as a row of the table; its samples as their median."""
        return (
            self.measure,
            seconds(median(self.baseline)) if self.baseline else "",
            seconds(median(self.ours)) if self.ours else "",
            self.figure,
            self.limit,
            "ok" if self.ok else "over",
        )


def seconds(value: float) -> str:
    """Seconds for people: 1.23 s, 45.6 ms, 7.8 µs."""
    if value < 1e-4:
        return f"{value * 1e6:.1f} µs"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def table(figures: Sequence[Figure]) -> str:
    """All figures, aligned, with the notes below."""
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
    """What the figures were measured on."""
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

    #: The day, ISO 8601, UTC.
    date: str
    machine: str
    figures: Sequence[Figure]

    def write(self, path: Path) -> None:
        """Write everything that was measured, every sample included, as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """What `write` wrote."""
        content = json.loads(path.read_text())
        figures = [Figure(**figure) for figure in content["figures"]]
        return cls(content["date"], content["machine"], figures)


def today() -> str:
    """The day of the run."""
    return datetime.now(timezone.utc).date().isoformat()
