"""The translations are complete, and the compiled catalogs match their sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import django_safe_init
from tests.unit.catalogs import (
    parse_po,
    read_mo,
    texts_in,
    texts_in_template,
    write_mo,
)

PACKAGE = Path(django_safe_init.__file__).parent
CATALOGS = sorted(PACKAGE.glob("locale/*/LC_MESSAGES/django.po"))
_PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[ds%]")


def placeholders(text: str) -> list[str]:
    return sorted(_PLACEHOLDER.findall(text))


def test_german_is_shipped() -> None:
    """The package has a German catalog."""
    assert [path.parts[-3] for path in CATALOGS] == ["de"]


@pytest.mark.parametrize("path", CATALOGS, ids=lambda path: path.parts[-3])
def test_every_text_is_translated(path: Path) -> None:
    """A catalog has exactly the package's texts, and no empty translation."""
    in_code = {text for module in PACKAGE.rglob("*.py") for text in texts_in(module)}
    for template in PACKAGE.rglob("*.html"):
        in_code.update(texts_in_template(template))
    catalog = parse_po(path.read_text())
    assert set(catalog) == in_code | {""}
    assert all(form for text in catalog.values() for form in text.split("\0"))


@pytest.mark.parametrize("path", CATALOGS, ids=lambda path: path.parts[-3])
def test_compiled_catalog(path: Path) -> None:
    """The `.mo` file has the entries of the `.po` file."""
    assert read_mo(path.with_suffix(".mo").read_bytes()) == parse_po(path.read_text())


@pytest.mark.parametrize("path", CATALOGS, ids=lambda path: path.parts[-3])
def test_placeholders(path: Path) -> None:
    """Every translation has the placeholders of its text."""
    for text, translation in parse_po(path.read_text()).items():
        wanted = [placeholders(form) for form in text.split("\0")]
        for form in translation.split("\0") if text else []:
            assert placeholders(form) in wanted, form


def test_writing() -> None:
    """Reading a written catalog returns its entries."""
    catalog = {"": "Language: xx\n", "a\0b": "c\0d", "e\x04f": "gé"}
    assert read_mo(write_mo(catalog)) == catalog
