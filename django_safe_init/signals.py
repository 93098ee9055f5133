"""Signals sent by this package."""

from django.dispatch import Signal

#: Sent at every change of what this process is doing for a database, with `database` (the
#: alias), `old` and `new` (both `State`). Receivers run inside the initialization: one that
#: raises fails it.
state_changed = Signal()
