"""The documentation's samples, as far as a test can judge them without running them."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Iterator
from logging.config import dictConfig
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings as django_settings
from django.core.management import get_commands, load_command_class

import django_safe_init
from django_safe_init.conf import get_settings, iter_errors
from django_safe_init.management.exec import split_argv
from tests.samples.blocks import BLOCKS, PAGES, Block, command_lines, of_kind
from tests.support import PATIENCE, validate_json
from tests.unit.catalogs import parse_po, texts_in

KINDS = {
    "browser", "crontab", "dockerfile", "file", "json", "migration", "output", "parse",
    "po", "python", "run", "sessions", "settings", "sql", "steps", "untested", "yaml",
}  # fmt: skip
#: The number of samples that no test can run. Avoid adding more.
UNTESTED = 6
#: The apps of the commands that are neither Django's core nor this package's.
APPS = {"clearsessions": "django.contrib.sessions"}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_tested(block: Block) -> None:
    """A block is tested by its language or its mark, or its mark gives a reason."""
    assert block.kind in KINDS, (
        "mark it: <!-- sample: KIND --> or <!-- untested: reason -->"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_is_overlooked(page: Path) -> None:
    """A page has no other kind of code block than the collected one."""
    for line in page.read_text().splitlines():
        overlooked = "```" in line.lstrip(" `") or "~~~" in line or "````" in line
        assert not overlooked, line


def test_few_blocks_are_untested() -> None:
    """Few samples are untested, and each has a reason."""
    untested = [block for block in BLOCKS if block.kind == "untested"]
    assert len(untested) <= UNTESTED, [str(block) for block in untested]
    assert all(len(block.mark[1].split()) > 2 for block in untested)


# Command lines


def _walk(value: Any) -> Iterator[list[str]]:
    """Yield the command lines in a YAML document: lists of words, or texts."""
    if isinstance(value, str):
        yield from command_lines(value)
    elif isinstance(value, list) and "manage.py" in value:
        yield value[value.index("manage.py") + 1 :]
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _walk(item)


def _parse(words: list[str]) -> None:
    """Parse the arguments with the command's parser, which raises `CommandError`."""
    name, *arguments = words
    command = load_command_class(APPS.get(name) or get_commands()[name], name)
    parser = command.create_parser("manage.py", name)
    parser.called_from_command_line = False
    parser.parse_args(split_argv(arguments)[0])


@pytest.mark.parametrize("block", of_kind("parse", "run", "crontab"), ids=str)
def test_command_lines(block: Block) -> None:
    """The parser of the command accepts every `manage.py` of a shell sample."""
    for words in command_lines(block.text):
        _parse(words)


@pytest.mark.parametrize("block", of_kind("parse", "run"), ids=str)
def test_shell_syntax(block: Block) -> None:
    """A shell accepts the syntax of the sample."""
    subprocess.run(["bash", "-n", "-c", block.text], check=True, timeout=PATIENCE)


@pytest.mark.parametrize("block", of_kind("parse"), ids=str)
def test_parsed_blocks_have_commands(block: Block) -> None:
    """A block that is only parsed contains a command line."""
    assert command_lines(block.text)


@pytest.mark.parametrize("block", of_kind("yaml"), ids=str)
def test_yaml(block: Block) -> None:
    """YAML samples are valid, and so are their command lines."""
    documents = list(yaml.safe_load_all(block.text))
    found = [words for document in documents for words in _walk(document)]
    assert found
    for words in found:
        _parse(words)


@pytest.mark.parametrize("block", of_kind("dockerfile"), ids=str)
def test_dockerfile(block: Block) -> None:
    """Each line of a Dockerfile is an instruction with valid command lines in JSON lists."""
    for line in block.text.splitlines():
        instruction, _, rest = line.partition(" ")
        assert instruction in {"FROM", "ENTRYPOINT", "CMD"}, line
        if instruction != "FROM":
            words = json.loads(rest)
            assert all(isinstance(word, str) for word in words)
            for found in _walk(words):
                _parse(found)


@pytest.mark.parametrize("block", of_kind("crontab"), ids=str)
def test_crontab(block: Block) -> None:
    """A line of a crontab has five fields and a command."""
    for line in block.text.splitlines():
        fields = line.split(None, 5)
        assert len(fields) == 6
        assert all(set(field) <= set("0123456789*/,-") for field in fields[:5])


# Settings


@pytest.mark.parametrize("block", of_kind("settings"), ids=str)
def test_settings(block: Block, settings: Any, monkeypatch: Any) -> None:
    """A settings sample has no unknown key, no wrong type and no unknown alias."""
    names: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), names)
    for alias, entry in names.get("DATABASES", {}).items():
        monkeypatch.setitem(django_settings.DATABASES, alias, entry)
    settings.SAFE_INIT = names.get("SAFE_INIT", {})
    assert list(iter_errors()) == []
    assert get_settings()
    if "INSTALLED_APPS" in names:
        assert names["INSTALLED_APPS"][0] == "django_safe_init"
    if "LOGGING" in names:
        logger = logging.getLogger("django_safe_init")
        monkeypatch.setattr(logger, "handlers", [])
        monkeypatch.setattr(logger, "level", logger.level)
        dictConfig(names["LOGGING"])
        assert logger.handlers


# Translations


@pytest.mark.parametrize("block", of_kind("po"), ids=str)
def test_po(block: Block) -> None:
    """A sample of a message catalog translates texts that exist."""
    package = Path(django_safe_init.__file__).parent
    texts = {text for path in package.rglob("*.py") for text in texts_in(path)}
    assert set(parse_po(block.text)) - {""} <= texts


# JSON


@pytest.mark.parametrize("block", of_kind("json"), ids=str)
def test_json(block: Block) -> None:
    """A JSON sample is valid under the published schema."""
    validate_json(block.option("schema"), json.loads(block.text))
