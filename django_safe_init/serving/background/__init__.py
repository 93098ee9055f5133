"""The threads and the child process of a web process.

May use `initialization` and the layers below, one short read-only connection for each poll, and
one child process per host. Must not lead in this process, or hold a connection between polls.
"""
