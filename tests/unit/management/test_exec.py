"""The command after `--`."""

from __future__ import annotations

import pytest

from django_safe_init.exceptions import ConfigurationError
from django_safe_init.management.exec import check_command, split_argv


@pytest.mark.parametrize(
    ("argv", "own", "command"),
    [
        (["m", "safe_migrate"], ["m", "safe_migrate"], []),
        (["m", "--", "a", "--", "b"], ["m"], ["a", "--", "b"]),
        (["m", "--json", "--"], ["m", "--json"], []),
    ],
)
def test_split(argv, own, command) -> None:
    """The first `--` separates the arguments from the command."""
    assert split_argv(argv) == (own, command)


def test_check_command() -> None:
    """A program that does not exist is a configuration error."""
    check_command([])
    check_command(["sh", "-c", "true"])
    with pytest.raises(
        ConfigurationError, match="There is no command 'no-such-program'"
    ):
        check_command(["no-such-program"])
