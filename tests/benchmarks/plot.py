"""A plot of the figures. Needs matplotlib, from the extra `bench`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from statistics import median

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from .report import Figure, Results, seconds

OURS, BASELINE, LIMIT, OVER = "#2b6cb0", "#a0aec0", "#2f855a", "#c53030"
#: The same figures make the same file, and its text stays text.
_REPRODUCIBLE = {"svg.hashsalt": "django-safe-init", "svg.fonttype": "none"}


def plot(results: Results, path: Path) -> None:
    """Draw each measure that has samples: medians as bars, samples as dots."""
    figures = [figure for figure in results.figures if figure.ours]
    with matplotlib.rc_context(_REPRODUCIBLE):
        bars = [1 + bool(figure.baseline) for figure in figures]
        size = (9, 0.8 * len(figures) + 0.3 * sum(bars) + 0.8)
        canvas = Canvas(figsize=size, layout="constrained")
        ratios = {"height_ratios": bars}
        if figures:  # every measure may have broken off
            axes = canvas.subplots(len(figures), squeeze=False, gridspec_kw=ratios)
            for axis, figure in zip(axes[:, 0], figures, strict=True):
                draw(axis, figure)
        canvas.suptitle(f"django-safe-init, {results.date}", fontsize=11)
        caption = "\n".join(textwrap.wrap(results.machine, 140))
        canvas.supxlabel(f"seconds\n{caption}", fontsize=7)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        canvas.savefig(path, metadata=metadata)


def draw(axis: Axes, figure: Figure) -> None:
    """Draw one measure: the figure, the baseline if present, and the limit as a line."""
    rows = [("ours", figure.ours, OURS if figure.ok else OVER)]
    if figure.baseline:
        rows.insert(0, ("baseline", figure.baseline, BASELINE))
    for position, (_, samples, color) in enumerate(rows):
        axis.barh(position, median(samples), color=color, height=0.6, alpha=0.75)
        axis.plot(samples, [position] * len(samples), ".", color="black", markersize=3)
    if figure.limit_seconds is not None:
        axis.axvline(figure.limit_seconds, color=LIMIT, linestyle="--", linewidth=1.5)
        limit = f"limit {seconds(figure.limit_seconds)}"
        axis.set_title(limit, loc="right", fontsize=9, color=LIMIT)
    axis.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8)
    axis.set_ylim(-0.5, len(rows) - 0.5)
    axis.set_xlim(0, 1.1 * largest(figure))
    axis.tick_params("x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    verdict = (
        f"{seconds(median(figure.ours))}, {'ok' if figure.ok else 'over the limit'}"
    )
    axis.set_title(f"{figure.measure}: {verdict}", loc="left", fontsize=9)


def largest(figure: Figure) -> float:
    return max(*figure.ours, *figure.baseline, figure.limit_seconds or 0.0)
