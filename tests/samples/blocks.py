"""The fenced blocks of the documentation, and the kind of test for each."""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
TUTORIAL = "docs/tutorial.md"

#: `<!-- sample: KIND option=value -->` or `<!-- untested: reason -->` on the line before a fence.
_MARK = re.compile(r"<!-- (sample|untested): (.+) -->")
_FENCE = re.compile(r"^ *```(.*)$")
_BY_LANGUAGE = {
    "dockerfile": "dockerfile",
    "html": "browser",
    "json": "json",
    "po": "po",
    "sh": "run",
    "sql": "sql",
    "yaml": "yaml",
}


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    mark: tuple[str, str] = ("", "")

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def words(self) -> list[str]:
        return self.mark[1].split() if self.mark[0] == "sample" else []

    @property
    def kind(self) -> str:
        """The kind of test for the block, or "" if neither language nor mark says it."""
        if self.mark[0] == "untested":
            return "untested"
        named = [word for word in self.words if "=" not in word]
        if named:
            return named[0]
        if self.language == "python":
            return _kind_of_python(self.text)
        return _BY_LANGUAGE.get(self.language, "")

    def option(self, name: str, default: str = "") -> str:
        """Return the value of an option of the mark."""
        options = dict(word.split("=", 1) for word in self.words if "=" in word)
        return options.get(name, default)


def _kind_of_python(text: str) -> str:
    body = ast.parse(text).body if _is_plain(text) else []
    if any(
        isinstance(node, ast.ClassDef) and node.name == "Migration" for node in body
    ):
        return "migration"
    targets = [node.targets[0] for node in body if isinstance(node, ast.Assign)]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    others = [
        n for n in body if not isinstance(n, (ast.Assign, ast.Import, ast.ImportFrom))
    ]
    settings = names and not others and all(name.isupper() for name in names)
    return "settings" if settings else "python"


def _is_plain(text: str) -> bool:
    """Return True for a module, False for the body of a coroutine."""
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def blocks_of(page: Path) -> list[Block]:
    """Return all fenced blocks of a page without Sphinx's directives."""
    found: list[Block] = []
    lines = page.read_text().splitlines()
    numbers = iter(range(len(lines)))
    for number in numbers:
        fence = _FENCE.match(lines[number])
        if fence is None:
            continue
        body = [lines[n] for n in _until_fence(lines, numbers)]
        if not fence[1].startswith("{"):
            mark = _MARK.fullmatch(lines[number - 1].strip()) if number else None
            found.append(
                Block(
                    str(page.relative_to(ROOT)),
                    number + 1,
                    fence[1],
                    textwrap.dedent("\n".join(body) + "\n"),
                    (mark[1], mark[2]) if mark else ("", ""),
                )
            )
    return found


def _until_fence(lines: list[str], numbers: Iterator[int]) -> Iterator[int]:
    for number in numbers:
        if lines[number].strip() == "```":
            return
        yield number


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of_kind(*kinds: str) -> list[Block]:
    """Return the blocks of these kinds, except the tutorial's, which have a separate test."""
    return [block for block in BLOCKS if block.kind in kinds and block.page != TUTORIAL]


def command_lines(text: str) -> list[list[str]]:
    """Return the arguments of every `manage.py` in a text, split as a shell would."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.findall(r"manage\.py (\S.*)", line.split(" # ")[0]):
            lexer = shlex.shlex(part, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            found.append(_until_operator(list(lexer)))
    return found


def _until_operator(words: list[str]) -> list[str]:
    for number, word in enumerate(words):
        if set(word) <= set("();<>|&") or (word == "2" and number == len(words) - 1):
            return words[:number]
    return words
