"""What it means when a server refuses a connection."""

from __future__ import annotations

#: The server is there and has no room or no time for us just now (SQLSTATE 53300, 57P03).
#: libpq gives a connection error no SQLSTATE, so the text has to do; a text in another
#: language is retried like any other error.
_BUSY = (
    "too many clients",
    "too many connections",
    "remaining connection slots",
    "no more connections allowed",
    "starting up",
    "shutting down",
    "not yet accepting connections",
    "in recovery mode",
)
#: Trying again would not help (SQLSTATE class 28, and a role that does not exist).
_FINAL = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects connection",
    "is not permitted to log in",
    "permission denied for database",
    "invalid connection option",
)


def is_final(text: str) -> bool:
    """Whether a failed connection would fail again, by the text of its error."""
    return any(part in text for part in _FINAL) or (
        'role "' in text and '" does not exist' in text
    )


def is_busy(error: Exception) -> bool:
    """Whether a failed connection means "wait" and not "broken"."""
    return any(part in str(error) for part in _BUSY)
