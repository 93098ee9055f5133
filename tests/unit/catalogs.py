"""Reading and writing translation catalogs without the gettext tools."""

from __future__ import annotations

import ast
import re
import struct
from collections.abc import Iterator
from pathlib import Path

#: The keys of a compiled catalog are `context EOT text`, and `text NUL plural`.
Catalog = dict[str, str]
CONTEXT, PLURAL = "\x04", "\x00"
MAGIC = 0x950412DE

_FUNCTIONS = re.compile(r"(n?p?)gettext(?:_lazy)?|_")
#: The texts that a template passes to gettext, without comments and white space.
_TAGS = re.compile(
    r"""\{% (?:translate|trans) (?P<quote>["'])(?P<text>.*?)(?P=quote)"""
    r"""|\{% blocktranslate[^%]*%\}(?P<one>.*?)(?:\{% plural %\}(?P<many>.*?))?"""
    r"""\{% endblocktranslate %\}""",
    re.DOTALL,
)


def texts_in(path: Path) -> Iterator[str]:
    """Return the keys of all texts that a module passes to gettext."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if called := _FUNCTIONS.fullmatch(node.func.id):
            kind = called[1] or ""
            texts = [ast.literal_eval(each) for each in node.args[: 1 + len(kind)]]
            context = texts.pop(0) + CONTEXT if "p" in kind else ""
            yield context + PLURAL.join(texts)


def texts_in_template(path: Path) -> Iterator[str]:
    """Return the keys of all texts that a template passes to gettext."""
    for found in _TAGS.finditer(path.read_text()):
        forms = [found["text"] or found["one"], found["many"]]
        yield PLURAL.join(map(_as_in_a_catalog, filter(None, forms)))


def _as_in_a_catalog(text: str) -> str:
    return re.sub(r"\{\{ (\w+) \}\}", r"%(\1)s", text)


def parse_po(text: str) -> Catalog:
    """Return the entries of a `.po` file, with its header."""
    catalog = {}
    for block in re.split(r"\n\n+", text.strip()):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line.startswith("#"):
                assert "fuzzy" not in line, block
                continue
            keyword, quoted = re.fullmatch(r'(?:(\S+) )?(".*")', line).groups()
            name = keyword or name
            fields[name] = fields.get(name, "") + ast.literal_eval(quoted)
        context = fields["msgctxt"] + CONTEXT if "msgctxt" in fields else ""
        plural = [fields["msgid_plural"]] if "msgid_plural" in fields else []
        forms = [fields[name] for name in fields if name.startswith("msgstr")]
        catalog[context + PLURAL.join([fields["msgid"], *plural])] = PLURAL.join(forms)
    return catalog


def read_mo(data: bytes) -> Catalog:
    """Return the entries of a `.mo` file, with its header."""
    magic, _, count, keys_at, values_at = struct.unpack_from("<5I", data)
    assert magic == MAGIC

    def strings(at: int) -> list[str]:
        places = [struct.unpack_from("<2I", data, at + 8 * n) for n in range(count)]
        return [data[start : start + length].decode() for length, start in places]

    return dict(zip(strings(keys_at), strings(values_at), strict=True))


def write_mo(catalog: Catalog) -> bytes:
    """Return a `.mo` file with these entries."""
    entries = sorted(catalog.items())
    strings = [
        text.encode() for column in zip(*entries, strict=True) for text in column
    ]
    start = 28 + 8 * len(strings)
    places, body = b"", b""
    for string in strings:
        places += struct.pack("<2I", len(string), start + len(body))
        body += string + b"\0"
    values_at = 28 + 4 * len(strings)
    head = struct.pack("<7I", MAGIC, 0, len(entries), 28, values_at, 0, start)
    return head + places + body
