"""The gunicorn configuration of the shop. gunicorn reads it if started in this folder."""

# A worker polls its database from its start, not only after its first request.
from django_safe_init.contrib.gunicorn import watch as post_worker_init  # noqa: F401

wsgi_app = "mysite.wsgi"
# The server logs that it waits or initializes.
logconfig_dict = {
    "root": {"level": "WARNING", "handlers": ["error_console"]},
    "loggers": {
        "django_safe_init": {
            "level": "INFO",
            "handlers": ["error_console"],
            "propagate": False,
        },
    },
}
