"""The project of all scenarios. `SCENARIO` names the migrations of its app."""

import json
import os
import random
import sys

import acts

SCENARIO = os.environ["SCENARIO"]

SECRET_KEY = "scenario"
USE_TZ = True
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "serving"
DATABASES = json.loads(os.environ["SCENARIO_DATABASES"])
if acts.chosen("RECEIVERS", "connected"):
    # Without a release each start would run the app's receivers of the migrate signals.
    os.environ.setdefault("SAFE_INIT_RELEASE", "scenario")
SAFE_INIT = json.loads(os.environ.get("SCENARIO_SAFE_INIT", "{}"))

INSTALLED_APPS = [
    *json.loads(os.environ.get("SCENARIO_APPS", '["django_safe_init"]')),
    # Before the others, so that its post_migrate receiver runs before permissions are created.
    "shop",
    "django.contrib.contenttypes",
    "django.contrib.auth",
]
MIGRATION_MODULES = {"shop": f"scenarios.{SCENARIO}"}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

if pause := os.environ.get("SCENARIO_PAUSE"):
    from django_safe_init.serving.background import backoff

    backoff.MIN_PAUSE = float(pause)

if pause := os.environ.get("SCENARIO_RECHECK"):
    from django_safe_init.serving.background import recheck

    recheck.MIN_INTERVAL = recheck.SECONDS_BETWEEN_READS = float(pause)

if seconds := os.environ.get("SCENARIO_FIRST_STATUS"):
    from django_safe_init import middleware

    # A request may wait longer for the first status of its process: the machine is busy.
    middleware.REQUEST_SECONDS = float(seconds)

if seconds := os.environ.get("SCENARIO_POLL"):
    # Every version of the package draws the time until a follower's next poll.
    random.uniform = lambda low, high: acts.note("pauses") or float(seconds)

if acts.chosen("SENTRY"):
    import reports

    reports.install()

if any(entry["ENGINE"].endswith("mysql") for entry in DATABASES.values()):
    import pymysql

    pymysql.version_info, pymysql.__version__ = (2, 2, 7, "final", 0), "2.2.7"
    pymysql.install_as_MySQLdb()

if acts.chosen("HOLD") and "--if-due" in sys.argv:
    # The child process of a web server, before it leads.
    acts.note("loading")
    acts.wait_for("load")

globals().update(json.loads(os.environ.get("SCENARIO_PROJECT", "{}")))
