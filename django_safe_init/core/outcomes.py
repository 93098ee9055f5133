"""How runs end, and how often one may end without a result."""

from __future__ import annotations

#: How a run can end.
OUTCOMES = ("ready", "partial", "failed", "interrupted", "transient", "abandoned")
#: Ends after which somebody else tries; the third in a row of one build is a failure.
TRANSIENT_OUTCOMES = ("interrupted", "transient", "abandoned")
MAX_TRANSIENT_FAILURES = 3
