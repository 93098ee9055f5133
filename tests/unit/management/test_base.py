"""Errors as exit codes."""

from __future__ import annotations

import pytest
from django.core.management import CommandError

from django_safe_init.exceptions import WaitTimeout
from django_safe_init.management.base import command_errors


def test_command_errors() -> None:
    """An error of the package becomes one line with its exit code."""
    with pytest.raises(CommandError, match="too long") as caught, command_errors():
        raise WaitTimeout("too long")
    assert caught.value.returncode == 3
    assert isinstance(caught.value.__cause__, WaitTimeout)
