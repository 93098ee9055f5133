"""The end of a command that a signal interrupts before or after its work."""

from __future__ import annotations

import json
import signal

import pytest
from django.core.management.base import BaseCommand

from django_safe_init.core.signal_handling import Interrupted
from django_safe_init.management.commands.safe_migrate import Command


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_interrupted(monkeypatch, capfd, options) -> None:
    """The command says which signal it was, and exits with the signal's code."""

    def interrupt(*arguments: object) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(BaseCommand, "run_from_argv", interrupt)
    with pytest.raises(SystemExit) as caught:
        Command().run_from_argv(["manage.py", "safe_migrate", *options])
    assert caught.value.code == 128 + signal.SIGTERM
    printed = capfd.readouterr()
    if options:
        assert json.loads(printed.out)["result"] == "interrupted"
    else:
        assert "SIGTERM" in printed.err
