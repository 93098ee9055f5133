"""Readers of the files in `example_project/deploy`: commands, environments, pods."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support import PATIENCE

EXAMPLE = Path(__file__).parents[2] / "example_project"
DEPLOY = EXAMPLE / "deploy"
COMPOSE = sorted(DEPLOY.glob("compose*.yaml"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
#: The values that a deployment must set.
SECRETS = {"DATABASE_PASSWORD": "p4ss", "SECRET_KEY": "s3cret"}


def compose(file: Path) -> dict[str, Any]:
    """Return the services of a file, with `extends` applied and variables filled in."""
    services = {}
    for name, service in yaml.safe_load(file.read_text())["services"].items():
        base: dict[str, Any] = {}
        if extended := service.pop("extends", None):
            base = compose(DEPLOY / extended["file"])[extended["service"]]
        environment = {**base.get("environment", {}), **service.get("environment", {})}
        services[name] = {**base, **service, "environment": _filled(environment)}
    return services


def _filled(environment: dict[str, str]) -> dict[str, str]:
    """Fill in Compose's `${NAME}`, `${NAME:-default}` and `${NAME:?error}`."""

    def value(match: re.Match[str]) -> str:
        default = match[2] if (match[2] or "").startswith(":-") else ""
        return SECRETS.get(match[1], default[2:])

    return {
        name: re.sub(r"\$\{(\w+)(:[-?][^}]*)?\}", value, text)
        for name, text in environment.items()
    }


def objects(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each file with its pod template."""
    for file in MANIFESTS:
        for each in objects(file):
            if "template" in each.get("spec", {}):
                yield file.name, each["spec"]["template"]["spec"]


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for file, pod in pods():
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield f"{file}:{container['name']}", container


def kubernetes_environment(container: dict[str, Any]) -> dict[str, str]:
    """Return the container's environment from the Secret, the ConfigMap and its own list."""
    sources = {each["kind"]: each for each in objects(DEPLOY / "kubernetes/shop.yaml")}
    return {
        **sources["ConfigMap"]["data"],
        **sources["Secret"]["stringData"],
        **{each["name"]: each["value"] for each in container.get("env", [])},
    }


def environments() -> dict[str, dict[str, str]]:
    """Return the environment of every container of the shop."""
    found = {
        f"{file.name}:{name}": service["environment"]
        for file in COMPOSE
        for name, service in compose(file).items()
        if service["image"] == "shop"
    }
    for name, container in containers():
        found[name] = kubernetes_environment(container)
    return found


def instructions() -> dict[str, list[str]]:
    """Return the instructions of the Dockerfile, each with its arguments."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            found.setdefault(name, []).append(rest)
    return found


def command_lines() -> dict[str, list[str]]:
    """Return every command that starts the shop."""
    found = {
        f"{file.name}:{name}": service["entrypoint"]
        for file in COMPOSE
        for name, service in compose(file).items()
        if service["image"] == "shop"
    }
    found |= {name: container["command"] for name, container in containers()}
    found["Dockerfile"] = json.loads(instructions()["ENTRYPOINT"][0])
    return found


# The settings in such an environment

_READ_SETTINGS = """
import json, os, sys

class Watched(dict):
    read = set()
    def get(self, name, default=None):
        self.read.add(name)
        return super().get(name, default)

os.environ = Watched(os.environ)
import django
django.setup()
from django.conf import settings
from django.core.checks import run_checks
from django_safe_init.conf import get_settings
ours = get_settings()
print(json.dumps({
    "read": sorted(Watched.read),
    "problems": [str(each) for each in run_checks()],
    "database": settings.DATABASES["default"],
    "direct": dict(ours.direct),
    "serve": ours.serve,
    "status_token": ours.status_token,
    "secret_key": settings.SECRET_KEY,
    "debug": settings.DEBUG,
    "hosts": settings.ALLOWED_HOSTS,
    "first": settings.MIDDLEWARE[0],
}))
"""


def settings_with(environment: dict[str, str]) -> dict[str, Any]:
    """Return the example project's settings in exactly this environment."""
    kept = {"PATH", "PYTHONPATH", "HOME"} & set(os.environ)
    done = subprocess.run(
        [sys.executable, "-c", _READ_SETTINGS],
        cwd=EXAMPLE,
        env={
            **{name: os.environ[name] for name in kept},
            "DJANGO_SETTINGS_MODULE": "mysite.settings",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
