"""The source of one app of the synthetic project: models and their history."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

KEY = (
    "models.BigAutoField(auto_created=True, primary_key=True, serialize=False, "
    'verbose_name="ID")'
)

MIGRATION = """\
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = {initial}
    dependencies = [{dependencies}]
    operations = [{operations}]
"""

MODELS = """\
from django.db import models


class Category(models.Model):
    name = models.CharField(max_length=100)


class Item(models.Model):
    {fields}

    class Meta:
        indexes = [{indexes}]
        constraints = [{constraints}]
"""

LINK = """

class {name}(models.Model):
    {fields}
"""

APP_CONFIG = """\
from django.apps import AppConfig


class Config(AppConfig):
    name = "{label}"
"""


@dataclass
class App:
    """An app whose models and migrations grow together and always match."""

    label: str
    #: The model to which this app has a foreign key, as "label.Model".
    other: str
    fields: dict[str, str] = field(default_factory=dict)
    indexes: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    links: dict[str, dict[str, str]] = field(default_factory=dict)

    def models(self) -> str:
        """Return the source of `models.py`."""
        item = MODELS.format(
            fields=assignments(self.fields),
            indexes=", ".join(self.indexes),
            constraints=", ".join(self.constraints),
        )
        links = (
            LINK.format(name=name, fields=assignments(fields))
            for name, fields in self.links.items()
        )
        return item + "".join(links)


def assignments(fields: dict[str, str]) -> str:
    return "\n    ".join(f"{name} = {source}" for name, source in fields.items())


def create_model(name: str, fields: dict[str, str]) -> str:
    columns = ({"id": KEY} | fields).items()
    pairs = ", ".join(f'("{column}", {source})' for column, source in columns)
    return f'migrations.CreateModel("{name}", [{pairs}])'


def create(app: App) -> str:
    category = {"name": "models.CharField(max_length=100)"}
    app.fields = {
        "name": "models.CharField(max_length=100)",
        "slug": "models.SlugField(unique=True)",
        "amount": "models.IntegerField(default=0)",
        "created_at": "models.DateTimeField(auto_now_add=True)",
        "category": f'models.ForeignKey("{app.label}.Category", models.CASCADE)',
    }
    return f"{create_model('Category', category)}, {create_model('Item', app.fields)}"


def add_field(app: App, number: int) -> str:
    source = 'models.CharField(max_length=50, default="")'
    app.fields[f"note_{number}"] = source
    return f'migrations.AddField("item", "note_{number}", {source})'


def add_index(app: App, number: int) -> str:
    source = (
        f'models.Index(fields=["created_at", "name"], name="{app.label}_i{number}")'
    )
    app.indexes.append(source)
    return f'migrations.AddIndex("item", {source})'


def add_link(app: App, number: int) -> str:
    name = f"Link{number}"
    app.links[name] = {
        "item": f'models.ForeignKey("{app.label}.Item", models.CASCADE)',
        "other": f'models.ForeignKey("{app.other}", models.CASCADE, related_name="+")',
    }
    return create_model(name, app.links[name])


def change_data(app: App, number: int) -> str:
    return "migrations.RunPython(migrations.RunPython.noop, migrations.RunPython.noop)"


def alter_field(app: App, number: int) -> str:
    app.fields["name"] = f"models.CharField(max_length={100 + number})"
    return f'migrations.AlterField("item", "name", {app.fields["name"]})'


def add_constraint(app: App, number: int) -> str:
    name = f"{app.label}_c{number}"
    source = f'models.CheckConstraint(condition=models.Q(amount__gte=0), name="{name}")'
    app.constraints.append(source)
    return f'migrations.AddConstraint("item", {source})'


def add_reference(app: App, number: int) -> str:
    source = (
        f'models.ForeignKey("{app.other}", models.SET_NULL, null=True, '
        'related_name="+")'
    )
    app.fields[f"reference_{number}"] = source
    return f'migrations.AddField("item", "reference_{number}", {source})'


CHANGES: tuple[Callable[[App, int], str], ...] = (
    add_field,
    add_index,
    add_link,
    change_data,
    alter_field,
    add_constraint,
    add_reference,
    add_field,
    add_index,
)


def history(app: App, migrations: int) -> Iterator[tuple[str, str]]:
    """Yield the name and the source of each migration, oldest first."""
    name = "0001_initial"
    other = app.other.partition(".")[0]
    dependencies = "" if other == app.label else f'("{other}", "{name}")'
    yield name, migration(True, dependencies, create(app))
    changes = islice(cycle(CHANGES), migrations - 1)
    for number, change in enumerate(changes, start=2):
        dependencies = f'("{app.label}", "{name}")'
        name = f"{number:04}_{change.__name__}"
        yield name, migration(False, dependencies, change(app, number))


def migration(initial: bool, dependencies: str, operations: str) -> str:
    return MIGRATION.format(
        initial=initial, dependencies=dependencies, operations=operations
    )


def write(folder: Path, other: str, migrations: int) -> None:
    """Write an app with that many migrations and a foreign key to the model `other`."""
    app = App(folder.name, other)
    (folder / "migrations").mkdir(parents=True)
    (folder / "migrations" / "__init__.py").touch()
    for name, source in history(app, migrations):
        (folder / "migrations" / f"{name}.py").write_text(source)
    (folder / "__init__.py").touch()
    (folder / "apps.py").write_text(APP_CONFIG.format(label=app.label))
    (folder / "models.py").write_text(app.models())
