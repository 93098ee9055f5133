"""A backend without a driver: the smallest implementation of `backends.base`.

It proves that a backend is one folder. Its processes are threads of this process: the status
tables are Python objects, and the leader lock is an attribute. Only `django_migrations` is in a
database, which Django's own connection reaches.
"""
