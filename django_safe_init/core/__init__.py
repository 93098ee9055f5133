"""Engine-neutral values and helpers.

May use Python, `django.conf`, the app registry and the settings of aliases. Must not
execute a query, open a connection or import any other room of this package.
"""
