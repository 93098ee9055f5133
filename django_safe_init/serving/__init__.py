"""The serving side of a web process: background threads, and HTTP responses.

`background` finds out whether the databases are ready; `http` answers requests from that. The
rules are in the docstrings of both. No layer below imports this package.
"""
