"""The shop under gunicorn, which reads this file where it is started in this folder."""

# A worker looks at its database from its start, not only when the first request comes.
from django_safe_init.contrib.gunicorn import watch as post_worker_init  # noqa: F401

wsgi_app = "mysite.wsgi"
# The log of a server that waits, or initializes, says what it does.
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
