"""The files of `example_project/deploy` are valid, and match the project and the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from django_safe_init.conf import DEFAULT_PATHS
from django_safe_init.management.exec import split_argv
from tests.support import PATIENCE, program
from tests.unit.deployment import (
    COMPOSE,
    DEPLOY,
    EXAMPLE,
    MANIFESTS,
    command_lines,
    compose,
    containers,
    environments,
    instructions,
    objects,
    pods,
    settings_with,
)


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that checks a file; fail with its output."""
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


# Validity


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_compose_schema(file: Path) -> None:
    """The Compose files follow the Compose specification."""
    pytest.importorskip("check_jsonschema")
    options = ["--builtin-schema", "vendor.compose-spec", str(file)]
    run(sys.executable, "-m", "check_jsonschema", *options)


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_kubernetes_schema(file: Path) -> None:
    """The manifests follow the Kubernetes schemas, without unknown keys."""
    pytest.importorskip("kubernetes_validate")
    run(sys.executable, "-m", "kubernetes_validate", "--strict", str(file))


def test_haproxy_configuration() -> None:
    """HAProxy accepts its file."""
    run(program("haproxy"), "-c", "-f", str(DEPLOY / "haproxy.cfg"))


def test_nginx_configuration(tmp_path: Path) -> None:
    """nginx accepts its file inside `http { }`."""
    file = tmp_path / "nginx.conf"
    places = "".join(
        f"{kind}_temp_path {tmp_path}; "
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file.write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{ }}\n"
        f"http {{ access_log off; {places} include {DEPLOY}/nginx.conf; }}\n"
    )
    run(program("nginx"), "-t", "-q", "-c", str(file))


# Command lines


@pytest.mark.parametrize("name", command_lines())
def test_commands(name: str) -> None:
    """Each command starts the web server, or is a command that manage.py accepts."""
    command = command_lines()[name]
    if command[0] == "gunicorn":
        assert command == ["gunicorn", "mysite.wsgi"]
        return
    assert command[:2] == ["python", "manage.py"]
    command_name, *arguments = command[2:]
    parsed = load_command_class(get_commands()[command_name], command_name)
    parser = parsed.create_parser("manage.py", command_name)
    ours, theirs = split_argv(arguments)
    parser.parse_args(ours)
    assert theirs in ([], ["gunicorn", "mysite.wsgi"])


# The image


def test_image() -> None:
    """The image is built in two stages, and does not run as root."""
    found = instructions()
    assert set(found) <= {
        *("FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "EXPOSE", "ENTRYPOINT"),
    }
    assert [line.split()[1:] for line in found["FROM"]] == [["AS", "build"], []]
    [user] = found["USER"]
    uid, gid = map(int, user.split(":"))
    assert uid > 0
    assert gid > 0


def test_options_of_gunicorn() -> None:
    """gunicorn accepts the options of the image, and loads the shop."""
    pytest.importorskip("gunicorn")
    [options] = [
        line.partition("=")[2].strip('"')
        for line in instructions()["ENV"]
        if line.startswith("GUNICORN_CMD_ARGS")
    ]
    assert "--bind=0.0.0.0:8000" in options.split()
    run(
        *(sys.executable, "-m", "gunicorn", "--check-config"),
        *("--chdir", str(EXAMPLE), "mysite.wsgi"),
        GUNICORN_CMD_ARGS=options,
        DJANGO_SETTINGS_MODULE="mysite.settings",
        **environments()["compose.yaml:web"],
    )


# The environment


@pytest.mark.parametrize("name", environments())
def test_settings_read_every_variable(name: str) -> None:
    """The settings read every variable that a file sets."""
    environment = environments()[name]
    found = settings_with(environment)
    assert set(environment) <= set(found["read"])
    assert found["problems"] == []
    assert found["database"]["HOST"] == "pgbouncer"
    [direct] = found["direct"].values()
    assert (direct["HOST"], direct["PORT"]) in (("db", 5432), ("postgres", 5432))
    assert direct["NAME"] == found["database"]["NAME"] == "shop"
    assert direct["PASSWORD"] == found["database"]["PASSWORD"]
    assert found["database"]["DISABLE_SERVER_SIDE_CURSORS"]
    assert found["serve"] == environment.get("SHOP_SERVE", "gate")
    assert found["status_token"] == environment["SAFE_INIT_STATUS_TOKEN"]
    assert found["secret_key"] == environment["SECRET_KEY"]
    assert found["hosts"] == environment["ALLOWED_HOSTS"].split(",")
    assert found["debug"] is False


def test_settings_on_a_developers_machine() -> None:
    """Without these variables the settings are the demo's."""
    found = settings_with({})
    assert (found["debug"], found["serve"], found["direct"]) == (True, "gate", {})
    assert found["first"].endswith("InitializationMiddleware")


def test_who_initializes() -> None:
    """Each file has exactly one way to initialize."""
    commands, given = command_lines(), environments()
    for prefix in ("compose.yaml", "compose.initialize", "job", "init-c", "self-"):
        names = [name for name in commands if name.startswith(prefix)]
        leading = [name for name in names if "safe_migrate" in commands[name]]
        serving = [name for name in names if "SHOP_SERVE" in given[name]]
        assert len(leading) + len(serving) == 1, names


# Kubernetes


def test_probes() -> None:
    """Startup and liveness probes request `live`, readiness probes `ready`, with time to answer."""
    servers = [c for _, c in containers() if c["command"][0] == "gunicorn"]
    assert len(servers) == 3
    for server in servers:
        for probe, path in (
            ("startupProbe", "live"),
            ("livenessProbe", "live"),
            ("readinessProbe", "ready"),
        ):
            assert server[probe]["httpGet"]["path"] == DEFAULT_PATHS[path]
            assert server[probe]["httpGet"]["port"] in [
                port["name"] for port in server["ports"]
            ]
            assert server[probe]["timeoutSeconds"] >= 2


def test_pods_are_not_root() -> None:
    """No pod may run as root, or write to its root file system."""
    assert all(pod["securityContext"]["runAsNonRoot"] for _, pod in pods())
    for _, container in containers():
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_selectors() -> None:
    """The Service selects the pods that serve, and not the pod that initializes."""
    service = objects(DEPLOY / "kubernetes/shop.yaml")[-1]
    labels = {
        each["kind"]: each["spec"]["template"]["metadata"]["labels"]
        for each in objects(DEPLOY / "kubernetes/job.yaml")
    }
    assert labels["Deployment"] == service["spec"]["selector"]
    assert labels["Job"] != service["spec"]["selector"]


# The proxies


def test_proxies_know_four_replicas() -> None:
    """Compose starts as many replicas as the proxies know, and HAProxy checks our path."""
    replicas = compose(DEPLOY / "compose.yaml")["web"]["deploy"]["replicas"]
    haproxy = (DEPLOY / "haproxy.cfg").read_text()
    assert re.findall(r"server-template web (\d+) web:8000", haproxy) == [
        str(replicas),
        str(replicas),
    ]
    assert re.findall(r"httpchk GET (\S+)", haproxy) == [
        DEFAULT_PATHS["ready"],
        DEFAULT_PATHS["live"],
    ]
    nginx = (DEPLOY / "nginx.conf").read_text()
    assert len(re.findall(r"server 127\.0\.0\.1:\d+ max_fails=0;", nginx)) == replicas
