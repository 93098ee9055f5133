"""The `manage.py` of the generated migrations. `RESUME_KILL` names the point of its death."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    sys.path.insert(0, os.environ["RESUME_STEPS"])
    if os.environ.get("RESUME_POINTS"):
        import dying

        dying.install()
    execute_from_command_line(sys.argv)
