"""The wordings that the project avoids, and the finder of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import language

ROOT = Path(__file__).resolve().parents[2]


# The repository


@pytest.mark.parametrize("folder", language.FOLDERS)
def test_wordings(folder: str) -> None:
    """No docstring and no comment of the folder has an avoided wording."""
    found = [
        f"{file.relative_to(ROOT)}:{finding.line}: {finding.pattern}: {finding.text}"
        for file in language.python_files(ROOT / folder)
        for finding in language.findings(file.read_text())
    ]
    assert found == []


# The finder


def patterns(source: str) -> list[str]:
    return [finding.pattern for finding in language.findings(source)]


@pytest.mark.parametrize(
    ("docstring", "pattern"),
    [
        ("What a request asks for.", "a clause as a noun"),
        ("How long it waits.", "a clause as a noun"),
        ("Whether the time is over.", "'Whether' instead of 'Return True if'"),
        ("Poll, and look again.", "'look' as the verb"),
        ("Looking at the tables.", "'look' as the verb"),
        ("Wait until nobody leads.", "no actor"),
        ("Whoever leads is ended.", "no actor"),
        ("Return the lock there is.", "'there is'"),
        ("Return that of the leader.", "'that of'"),
        ("Return the one that leads.", "'that of'"),
        ("Return what runs at the moment.", "'just now'"),
        ("Return the run that is to end.", "'is to be'"),
        ("Return the leader alone.", "'alone', 'nothing else'"),
        ("While entered, the lock is held.", "'While entered', 'Here, because'"),
    ],
)
def test_a_pattern_is_found(docstring: str, pattern: str) -> None:
    """The finder names the pattern of each avoided wording."""
    assert patterns(f'"""{docstring}"""\n') == [pattern]


@pytest.mark.parametrize(
    "docstring",
    [
        "Return the newest run.",
        "What is missing? The function returns it.",
        "Look up the backend's name.",
        'Return `what there is`, or the text "nobody leads".',
        "Return True if the lock is held. Whether it is, only the server knows.",
    ],
)
def test_an_allowed_wording(docstring: str) -> None:
    """Plain sentences, questions, code and quotations are no findings."""
    assert patterns(f"'''{docstring}'''\n") == []


def test_docstrings_and_comments() -> None:
    """The finder reads docstrings of all levels and comments, and no other string."""
    source = '''"""Module."""

TEXT = "there is"  # there was one


class Leader:
    """A leader.

    Nobody follows.
    """

    #: Just now.
    async def lead(self):
        """What it does."""
        return "nobody looks"
'''
    assert language.findings(source) == [
        (3, "'there is'", "there was one"),
        (9, "no actor", "Nobody follows."),
        (12, "'just now'", "Just now."),
        (14, "a clause as a noun", "What it does."),
    ]


def test_a_comment_may_open_with_a_question_word() -> None:
    """A clause as a noun is a finding only at the beginning of a docstring."""
    assert patterns("# What follows is private.\n") == []


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints findings with their sums, and its result tells whether it found any."""
    clean, folder = tmp_path / "clean.py", tmp_path / "folder"
    clean.write_text('"""Return a run."""\n')
    folder.mkdir()
    (folder / "wrong.py").write_text("# Nobody leads.\n# Nobody follows.\n")
    monkeypatch.setattr(sys, "argv", ["language", str(clean)])
    assert language.main() == 0
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys, "argv", ["language", str(clean), str(folder)])
    assert language.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{folder}/wrong.py:1: no actor: Nobody leads.",
        f"{folder}/wrong.py:2: no actor: Nobody follows.",
        "    2  no actor",
    ]
