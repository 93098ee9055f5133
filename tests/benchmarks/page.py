"""The documentation's page about a run of the benchmarks."""

from __future__ import annotations

from collections.abc import Iterator

from .report import HEADINGS, Figure, Results, seconds

PAGE = """\
# Benchmarks

<!-- Made by `python -m tests.benchmarks --docs`, which measures all of it. -->

Measured on {date}, with the replicas and the server on one machine:
{machine}.
The server writes commits to disk, as in production (`fsync` and `synchronous_commit` are on).

{table}

![For each measure ours, the baseline and the limit](benchmarks.svg)

## How to read it

*Ours* and *baseline* are medians of samples that were taken in turn, so that a busy moment of the
machine meets both. The dots in the picture are the samples, the dashed line is the *limit* that
this project has set itself, and the *figure* is what is compared with it. A measure that is over
its limit is shown like the others. On another machine the seconds differ; what is a ratio should
not differ much.

{meanings}
## Measure it yourself

In a checkout, after `pip install -e '.[bench]'`:

- `python -m tests.benchmarks` prints the table, in about ten minutes;
- `python -m tests.benchmarks --list` says what is measured;
- `python -m tests.benchmarks --docs` renews this page, its picture and its data too.

Every sample is in [benchmarks.json](benchmarks.json). A machine that does something else at the
same time shows it in the figures: the load at the start is part of the line above.
"""


def page(results: Results) -> str:
    """Return the page in Markdown."""
    return PAGE.format(
        date=results.date,
        machine=results.machine,
        table="\n".join(rows(results)),
        meanings="\n".join(map(section, results.figures)),
    )


def rows(results: Results) -> Iterator[str]:
    """Yield the lines of the table in Markdown."""
    yield row(*HEADINGS)
    yield "|---|---|---|---|---|---|"
    for figure in results.figures:
        yield row(*figure.cells())


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def section(figure: Figure) -> str:
    """Return the section of a figure: its meaning, its samples and its notes."""
    lines = [f"### {figure.measure}", "", figure.meaning, ""]
    if figure.ours:
        low, high = seconds(min(figure.ours)), seconds(max(figure.ours))
        lines += [f"Samples of ours: {len(figure.ours)}, from {low} to {high}.", ""]
    lines += [f"- {note}" for note in figure.notes] + [""] * bool(figure.notes)
    return "\n".join(lines)
