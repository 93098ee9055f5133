"""The backend for PostgreSQL: an advisory lock on a dedicated session, and fenced connections.

May use psycopg, `backends.base` and `core`. Must not know another engine, `validation`,
`initialization` or `serving`. Only the leader may hold a lock or a snapshot longer than one
statement.
"""
