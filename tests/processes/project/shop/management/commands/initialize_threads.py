"""`initialize_threads N`: N threads of one process call `initialize()` at once."""

import json
import threading
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connections

import acts
from django_safe_init import initialize


class Command(BaseCommand):
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("number", type=int)

    def handle(self, *args: Any, **options: Any) -> None:
        outcomes: list[dict[str, str]] = []
        ready = threading.Barrier(options["number"] + 1)

        def work() -> None:
            ready.wait()
            outcomes.append(outcome())

        threads = [threading.Thread(target=work) for _ in range(options["number"])]
        for thread in threads:
            thread.start()
        ready.wait()
        acts.note(f"{options['number']} threads")
        for thread in threads:
            thread.join()
        self.stdout.write(json.dumps(outcomes))


def outcome() -> dict[str, str]:
    try:
        return {"role": initialize().role, "error": ""}
    except Exception as error:  # noqa: BLE001  (the test prints the error)
        return {"role": "none", "error": f"{type(error).__name__}: {error}"}
    finally:
        connections.close_all()
