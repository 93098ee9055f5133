"""The project under a WSGI server, with code that queries the database on import."""

from django.db import connection

import wsgi

with connection.cursor() as cursor:  # and the connection stays open
    cursor.execute("SELECT 1")

application = wsgi.application
