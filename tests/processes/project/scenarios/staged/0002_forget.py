from django.db import migrations


class Migration(migrations.Migration):
    """A migration that django-syzygy postpones until after the deployment."""

    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RemoveField("product", "name")]
