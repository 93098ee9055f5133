"""Python in each schema, which reads a content type by Django's historical manager."""

from django.db import migrations


def fill(apps, schema_editor):
    content_type = apps.get_model("contenttypes", "ContentType")
    box = content_type.objects.get_for_model(apps.get_model("stock", "Box"))
    apps.get_model("stock", "Box").objects.create(label=f"first of {box.pk}")


class Migration(migrations.Migration):
    dependencies = [
        ("stock", "0003_shelf"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
