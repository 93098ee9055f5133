"""Initialize one database in one process: lead a run, or follow another process.

Modules here use a backend through `backends.base`, and Django's `migrate` through `call_command`.
They must not use a driver, a vendor name, SQL, or `management`.
"""
