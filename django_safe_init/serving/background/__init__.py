"""The threads and the child process of a web process.

May use the layers below, one short read-only connection for each poll and each check whether an
initialization is due, and one child process per host, which runs `safe_migrate`. Must not lead in
this process, or hold a connection between polls.
"""
