"""The responses to HTTP requests, built from the known statuses.

May use the request, `serving.background.readiness` and this package's own templates. Must not
use any database connection, wait longer than a probe allows, or put the text of an error into a
public body, except on the page while `DEBUG` is on.
"""
