"""The project under a WSGI server, with code that asks the database when it is imported."""

from django.db import connection

import wsgi

with connection.cursor() as cursor:  # and it stays open
    cursor.execute("SELECT 1")

application = wsgi.application
