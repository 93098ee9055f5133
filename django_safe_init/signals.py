"""Signals that this package sends."""

from django.dispatch import Signal

#: Sent when this process's initialization of a database changes its state, with `database`
#: (the alias), `old` and `new` (both `State`). Receivers run inside the initialization. A
#: receiver that raises makes the initialization fail.
state_changed = Signal()
