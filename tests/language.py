"""Find wordings the project avoids in docstrings and comments: `python -m tests.language [PATH]`.

CONTRIBUTING.md has the rules. Each pattern names an English construction that hides the actor,
the object or the time of a sentence.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("django_safe_init", "tests", "example_project")

#: Patterns that count at the beginning of a docstring.
OPENINGS = {
    "a clause as a noun": r"(What|Who|How|Where|When|Which|Why)\b(?!.*\?)",
    "'Whether' instead of 'Return True if'": r"Whether\b",
}
#: Patterns that count anywhere in a docstring or comment.
WORDINGS = {
    "'look' as the verb": r"\b[Ll]ook(s|ed|ing)?\b(?! up\b)",
    "no actor": r"\b(?i:somebody|nobody|everybody|anybody|whoever)\b",
    "'there is'": r"\b[Tt]here (is|are|was|were)\b",
    "'that of'": r"\b([Tt]hat|[Tt]hose) of\b|\bthe ones? that\b|\b[Tt]hose that\b",
    "'just now'": r"\b([Jj]ust now|[Aa]t (this|the) moment|[Mm]eanwhile|[Bb]y now)\b",
    "'is to be'": r"\b(is|are|was|were) (not )?to\b|\bto be had\b",
    "'alone', 'nothing else'": (
        r"\balone\b|\bnothing else\b|\b[Aa]ll of it\b|\b[Aa]ll there is\b"
    ),
    "'While entered', 'Here, because'": r"\bWhile entered\b|\bHere, because\b",
}


class Text(NamedTuple):
    """A docstring or a comment."""

    line: int
    text: str
    is_docstring: bool


class Finding(NamedTuple):
    """A line whose wording a pattern describes."""

    line: int
    pattern: str
    text: str


def texts(source: str) -> Iterator[Text]:
    """Yield the docstrings and comments of a Python file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(
            node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        ) and (docstring := ast.get_docstring(node)):
            yield Text(node.body[0].lineno, docstring, is_docstring=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(token.start[0], token.string.lstrip("#: "), is_docstring=False)


def findings(source: str) -> list[Finding]:
    """Return the lines of a Python file whose wording a pattern describes."""
    found = []
    for line, text, is_docstring in texts(source):
        prose = re.sub(r"`[^`]*`|\"[^\"]*\"", "x", text)
        if is_docstring:
            found += [
                Finding(line, name, text.splitlines()[0])
                for name, pattern in OPENINGS.items()
                if re.match(pattern, prose)
            ]
        for offset, each in enumerate(prose.splitlines()):
            found += [
                Finding(line + offset, name, each.strip())
                for name, pattern in WORDINGS.items()
                if re.search(pattern, each)
            ]
    return sorted(found)


def python_files(path: Path) -> list[Path]:
    """Return the Python files of a folder, or the file itself."""
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def main() -> int:
    """Print each finding and the sum of each pattern; return 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = [ROOT / folder for folder in FOLDERS]
    parser.add_argument("paths", nargs="*", type=Path, default=default)
    sums: Counter[str] = Counter()
    for path in parser.parse_args().paths:
        for file in python_files(path):
            for line, pattern, text in findings(file.read_text()):
                sums[pattern] += 1
                print(f"{file}:{line}: {pattern}: {text}")
    for pattern, count in sums.most_common():
        print(f"{count:5}  {pattern}")
    return 1 if sums else 0


if __name__ == "__main__":
    raise SystemExit(main())
