"""The backend for SQLite: the operating system's lock on a file beside the database.

May use `sqlite3`, `backends.base` and `core`. Must not know another engine, `validation`,
`initialization` or `serving`. Only the leader may hold a lock or a snapshot longer than one
statement.
"""
