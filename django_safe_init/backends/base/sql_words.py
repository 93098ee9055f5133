"""Split SQL into statements of words, without texts that contain such words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

#: The body of a function or procedure, or the text of a comment, may contain any word. A dollar
#: quote may not follow an identifier (PostgreSQL manual, 4.1.2.4).
_TOKEN = re.compile(
    r"""
      --[^\n]*
    | (?P<comment> /\*)
    | (?P<escaped> (?<![\w$]) [eE]' (?: [^'\\] | \\. | '' )* '?)
    | ' (?: [^'] | '' )* '?
    | (?P<quoted> " (?: [^"] | "" )* "? | ` [^`]* `? | \[ [A-Za-z_][^\]\d]* \])
    | (?<![\w$]) (?P<tag> \$ (?: [^\W\d]\w* )? \$)
    | (?P<word> [^\W\d][\w$]*)
    | (?P<symbol> [();.,=])
    """,
    re.VERBOSE | re.DOTALL,
)
#: Stands for a text in quotes.
_TEXT = "''"
_COMMENT_END = re.compile(r"/\*|\*/")

#: Words in capital letters, quoted identifiers in double quotes, and punctuation.
Words = tuple[str, ...]


class SQLStatement(NamedTuple):
    """One statement of a script."""

    words: Words
    #: The statement as it is written, without the semicolon.
    text: str


def _tokens(script: str) -> Iterator[tuple[str, int]]:
    """Yield the words with the position after each."""
    position = 0
    while found := _TOKEN.search(script, position):
        position = found.end()
        if found["comment"]:
            position = _end_of_comment(script, position)
        elif found["tag"]:
            end = script.find(found["tag"], position)
            position = len(script) if end < 0 else end + len(found["tag"])
            yield _TEXT, position
        elif not found[0].startswith("--"):
            word = found["quoted"] or found["symbol"] or (found["word"] or "").upper()
            yield word or _TEXT, position


def _end_of_comment(script: str, position: int) -> int:
    """Return the end of the comment that has just begun; comments can be nested."""
    depth = 1
    while depth and (found := _COMMENT_END.search(script, position)):
        depth += 1 if found[0] == "/*" else -1
        position = found.end()
    return position if depth == 0 else len(script)


def statements(script: str) -> list[SQLStatement]:
    """Return the statements of the script.

    The body of a trigger, or of a function with BEGIN ATOMIC, belongs to its statement.
    """
    found: list[SQLStatement] = []
    words: list[str] = []
    start = depth = 0
    for word, end in (*_tokens(script), (";", len(script) + 1)):
        if word == ";" and (depth == 0 or end > len(script)):
            found.append(SQLStatement(tuple(words), script[start : end - 1].strip()))
            words, start = [], end
        else:
            words.append(word)
            depth += _change_of_depth(words, depth)
    return [each for each in found if each.words]


def _change_of_depth(words: list[str], depth: int) -> int:
    """Return 1 if the last word opens a block of statements, or -1 if it closes one."""
    word = words[-1]
    if word == "END" and depth:
        return -1
    if word == "CASE" and depth:
        return 1
    opens = word == "BEGIN" and words[0] == "CREATE" and "TRIGGER" in words[:5]
    if opens or (word == "ATOMIC" and words[0] == "CREATE" and words[-2] == "BEGIN"):
        return 1
    return 0
