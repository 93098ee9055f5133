"""Configuration of the Django app."""

from django.apps import AppConfig

from django_safe_init.core.process import is_under_runserver, runs_runserver

# Django imports this module before the models of any app, which may be broken.
if is_under_runserver() or runs_runserver():
    from django_safe_init.serving.background.reloads import detector

    detector.register_early()


class SafeInitConfig(AppConfig):
    """App configuration that registers the checks, the guard of slow pools and the log filter.

    Loading the app opens no database and starts no thread. The processes of `runserver` record
    themselves in a temporary file.
    """

    name = "django_safe_init"
    verbose_name = "Safe initialization"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django.db.backends.signals import connection_created

        from django_safe_init.core.log import make_log_printable
        from django_safe_init.management import checks  # noqa: F401  (registers them)
        from django_safe_init.management.tenant_commands import replace_commands
        from django_safe_init.pools.execute_wrappers import guard_connection

        make_log_printable()
        replace_commands()
        connection_created.connect(guard_connection)
