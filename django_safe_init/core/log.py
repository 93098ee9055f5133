"""Make all that this package logs printable."""

from __future__ import annotations

import logging
from typing import Any

from django_safe_init.core.text import (
    mark_lines,
    printable,
    printable_hint,
    printable_traceback,
)


class PrintableFilter(logging.Filter):
    """A filter that passes every record, with its texts made printable.

    It belongs to the logger, so that it precedes the handlers of the project.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, str):
            record.msg = printable(record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(map(_printable, record.args))
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            record.exc_text = printable_traceback(error)
        text = getattr(record, "traceback_text", None)
        if text:  # of another process, which formatters print like `exc_info`
            record.exc_text = mark_lines(text)
        return True


def _printable(argument: Any) -> Any:
    # A number keeps its type for formats such as `%.0f`.
    if isinstance(argument, (int, float)):
        return argument
    return printable_hint(argument if isinstance(argument, str) else str(argument))


def make_log_printable() -> None:
    """Add the filter to this package's logger, on the first call only."""
    own = logging.getLogger("django_safe_init")
    if not any(isinstance(each, PrintableFilter) for each in own.filters):
        own.addFilter(PrintableFilter())
