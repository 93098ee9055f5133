"""The Django app."""

from django.apps import AppConfig


class SafeInitConfig(AppConfig):
    """Registers the system checks. Never touches the database and starts no work."""

    name = "django_safe_init"
    verbose_name = "Safe initialization"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django_safe_init import checks  # noqa: F401  (registers them)
