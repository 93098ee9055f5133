"""The page and the data files of the benchmarks, without running a benchmark."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as program
from tests.benchmarks.page import page
from tests.benchmarks.report import Figure, Results

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "docs" / "benchmarks.json"
RESULTS = Results(
    "2026-01-31",
    "2 cores · PostgreSQL 18.4",
    [
        Figure("start", "1.2", "1.10", False, [1.2, 1.3], [1.0], [], 1.1, "It starts."),
        Figure("end", "broke off", "", False, [], [], ["no server"], None, "It ends."),
    ],
)


def main(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    return program.main()


def test_page_of_the_documentation() -> None:
    """docs/benchmarks.md is the page that `--docs` writes from docs/benchmarks.json."""
    assert DATA.with_suffix(".md").read_text() == page(Results.read(DATA))


def test_the_page_explains_every_measure() -> None:
    """The docstring of every measure has one sentence and a longer explanation."""
    for function in program.MEASURES.values():
        first, empty, *rest = program.meaning(function).splitlines()
        assert first.endswith(".")
        assert (empty, bool(rest)) == ("", True)


def test_page() -> None:
    """The page names machine and day, and shows measures that broke off or exceed their limit."""
    text = page(RESULTS)
    assert "Measured on 2026-01-31" in text
    assert "2 cores · PostgreSQL 18.4." in text
    assert "| start | 1.00 s | 1.25 s | 1.2 | 1.10 | over |" in text
    assert "It starts.\n\nSamples of ours: 2, from 1.20 s to 1.30 s.\n" in text
    assert "It ends.\n\n- no server\n" in text


def test_results_round_trip(tmp_path) -> None:
    """Results that are written and read again are equal."""
    RESULTS.write(tmp_path / "run.json")
    assert Results.read(tmp_path / "run.json") == RESULTS


def test_an_earlier_run(tmp_path, monkeypatch, capsys) -> None:
    """`--read` reports an earlier run without measuring, and exits with 1 above a limit."""
    RESULTS.write(tmp_path / "run.json")
    target = tmp_path / "page.md"
    files = ["--read", str(tmp_path / "run.json"), "--markdown", str(target)]
    assert main(monkeypatch, *files, "--json", str(tmp_path / "again.json")) == 1
    assert "broke off" in capsys.readouterr().out
    assert target.read_text() == page(RESULTS)
    assert Results.read(tmp_path / "again.json") == RESULTS


def test_only_a_whole_run_is_documented(monkeypatch, capsys) -> None:
    """`--docs` refuses a run with only a part of the measures."""
    with pytest.raises(SystemExit):
        main(monkeypatch, "--docs", "--only", "takeover")
    assert "--docs shows a whole run" in capsys.readouterr().err


def test_no_matplotlib(tmp_path) -> None:
    """Without matplotlib `--plot` exits with 2 before it measures."""
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec;"
        "importlib.util.find_spec = lambda n: None if n == 'matplotlib' else find(n);"
        "from tests.benchmarks.__main__ import main; sys.exit(main())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "--plot", str(tmp_path / "x.svg")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith(
        "A plot needs matplotlib: pip install -e '.[bench]'"
    )


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs the extra `bench`"
)
def test_plot(tmp_path) -> None:
    """The plot is a reproducible SVG that names measures, limits and machine."""
    from tests.benchmarks.plot import plot

    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    for path in (first, second):
        plot(RESULTS, path)
    assert first.read_bytes() == second.read_bytes()
    text = " ".join(ElementTree.parse(first).getroot().itertext())
    for part in ("start: 1.25 s, over the limit", "limit 1.10 s", "PostgreSQL 18.4"):
        assert part in text
