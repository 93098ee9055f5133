"""Like `gated`, but never idle: short statements in autocommit, so that no time-out bites."""
