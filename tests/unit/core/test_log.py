"""The log of this package is printable, whatever a message quotes."""

from __future__ import annotations

import io
import logging
import logging.config
from collections.abc import Iterator

import pytest

from django_safe_init.core.log import PrintableFilter, make_log_printable

HOSTILE = "a\x1b[2J\u202e\nERROR forged"
ESCAPED = r"a\x1b[2J\u202e\nERROR forged"


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """Yield what a handler of the logger writes."""
    logger = logging.getLogger("django_safe_init")
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    yield handler.stream
    logger.removeHandler(handler)


def test_arguments(output) -> None:
    """Texts and errors are made printable, and numbers keep their format."""
    logger = logging.getLogger("django_safe_init")
    logger.warning("%s: %.1f s: %s", HOSTILE, 1.25, ValueError(HOSTILE))
    assert output.getvalue() == f"WARNING {ESCAPED}: 1.2 s: {ESCAPED}\n"


def test_a_whole_line(output) -> None:
    """A line without arguments, as a report is logged, is made printable."""
    logging.getLogger("django_safe_init").warning(HOSTILE)
    assert output.getvalue() == f"WARNING {ESCAPED}\n"


def test_another_object(output) -> None:
    """A message that is no text, and arguments by name, are logged as ever."""
    logger = logging.getLogger("django_safe_init")
    logger.warning(ValueError("no"))
    logger.warning("%(name)s", {"name": "x"})
    assert output.getvalue() == "WARNING no\nWARNING x\n"


def test_traceback(output) -> None:
    """Each line of a traceback is marked, so that an error's text cannot forge one."""
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("django_safe_init").exception("no")
    first, *lines = output.getvalue().splitlines()
    assert first == "ERROR no"
    assert lines[-2:] == [r"| ValueError: a\x1b[2J\u202e", "| ERROR forged"]
    assert all(line.startswith("| ") for line in lines)


def test_no_traceback(output) -> None:
    """A record whose `exc_info` holds no error has no traceback of this package."""
    record = logging.makeLogRecord({"msg": "no", "exc_info": (None, None, None)})
    assert PrintableFilter().filter(record)
    assert record.exc_text is None


def test_it_survives_the_projects_configuration() -> None:
    """A project's `LOGGING` keeps the filter, which is there once."""
    make_log_printable()
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "loggers": {"django_safe_init": {"level": "NOTSET"}},
        }
    )
    filters = logging.getLogger("django_safe_init").filters
    assert sum(isinstance(each, PrintableFilter) for each in filters) == 1
