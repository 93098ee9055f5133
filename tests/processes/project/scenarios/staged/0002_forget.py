from django.db import migrations


class Migration(migrations.Migration):
    """What django-syzygy leaves for after the deployment."""

    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RemoveField("product", "name")]
