"""The backend for an engine without a leader lock: it reads, and cannot lead.

Uses Django's own connection, so it serves every engine that Django serves. May use `backends.base`
and `core`. Must not use a driver, know another engine, `validation`, `initialization` or
`serving`, and must not write.
"""
