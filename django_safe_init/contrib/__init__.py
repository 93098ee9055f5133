"""Integrations with other packages, each behind an extra of its name.

May use the public API, the layers below, and the optional dependency. Must not be imported by
any other module of this package.
"""
