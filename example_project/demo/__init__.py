"""`manage.py demo`: a fleet of replicas starts on an empty database, and you watch.

servers   where: an embedded server, or the one of DATABASE_URL; a database of its own each time
fleet     the replicas: real processes that start at the same moment
webserver gunicorn, its workers and what its log says of them, for --serve
observer  what the status tables say, over a connection of its own
killer    ends the leader in the middle, for --kill-leader
views     what you see meanwhile, in a terminal or in a log
checks    what must be true afterwards, read from the database
scenes    one act of the play each: with django-safe-init, and without
serving   the act of --serve
report    the table and the ticks
"""
