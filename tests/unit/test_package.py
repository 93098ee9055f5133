"""The public names, and what importing them costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from django.apps import apps

import django_safe_init
from tests.support import PATIENCE


@pytest.mark.parametrize("name", django_safe_init.__all__)
def test_public_name(name) -> None:
    """Every name in `__all__` can be imported from the package."""
    assert getattr(django_safe_init, name) is not None


def test_unknown_name() -> None:
    """Any other name is an ordinary AttributeError."""
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = django_safe_init.nothing


def test_names_for_type_checkers() -> None:
    """Type checkers find each public name in the module it is imported from at run time."""
    tree = ast.parse(Path(django_safe_init.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    homes = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        for each in statement.names:
            # `import name as name` exports the name again, by the typing specification.
            assert each.asname == each.name
            homes[each.name] = statement.module
    actual = django_safe_init._HOMES.items()
    assert homes == {name: f"django_safe_init.{module}" for name, module in actual}


def printed_by(code: str) -> str:
    """Return the output of a new process that runs the code."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return done.stdout.strip()


def test_import_is_free_of_django() -> None:
    """Importing the package imports neither Django nor a driver: INSTALLED_APPS names it."""
    code = (
        "import sys, django_safe_init\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('django', 'psycopg')))"
    )
    assert printed_by(code) == "[]"


def test_import_is_lazy() -> None:
    """Importing the package imports of its modules only the version."""
    code = (
        "import sys, django_safe_init\n"
        "print([m for m in sys.modules if m.startswith('django_safe_init.')])"
    )
    assert printed_by(code) == "['django_safe_init.version']"


def test_import_where_nothing_forks() -> None:
    """On a system without fork() the modules can be imported."""
    code = (
        "import os; del os.fork, os.register_at_fork; "
        "import django_safe_init.backends.postgresql.session\n"
        "import django_safe_init.core.process\n"
        "import django_safe_init.serving.background.readiness\n"
        "import django_safe_init.initialization.initializer"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE)
    assert done.returncode == 0


def test_integrations_are_optional() -> None:
    """The middleware and an initialization import neither the admin nor an integration."""
    code = (
        "import sys, django\n"
        "from django.conf import settings\n"
        "settings.configure(INSTALLED_APPS=['django_safe_init'])\n"
        "django.setup()\n"
        "import django_safe_init.middleware, django_safe_init.initialization.initializer\n"
        "optional = {'health_check', 'prometheus_client', 'gunicorn', 'admin'}\n"
        "print([name for name in sys.modules if optional & set(name.split('.'))])"
    )
    assert printed_by(code) == "[]"


def test_models_are_read_only() -> None:
    """Django makes no table for our models, and its commands do not know them."""
    from django_safe_init.models import Run, Step

    assert list(apps.get_app_config("django_safe_init").get_models()) == []
    for model in (Run, Step):
        assert not model._meta.managed
    assert str(Run(pk=3)) == "run 3"
    assert str(Step(name="shop.0001_initial")) == "shop.0001_initial"
