"""`manage.py demo`: show how a fleet of replicas starts on an empty database.

servers   the database server: embedded, or from DATABASE_URL; a new database for each scene
fleet     the replicas: processes that start at the same moment
webserver gunicorn and its workers, with the state that its log reports, for --serve
observer  the progress in the status tables, read over a separate connection
killer    kills the leader during its slowest migration, for --kill-leader
views     the display while the fleet runs: live in a terminal, lines in a log
checks    the checks of the result, read from the database
scenes    the scenes of the demo: with django-safe-init, and without
serving   the scene of --serve
report    the table of replicas and the list of checks
"""
