"""Commands and system checks of the package.

May use every layer below. A command parses its arguments, calls the library, prints the
result and translates each `SafeInitError` into an exit code. It contains no policy: decisions
about a run belong to `initialization`, about a database to `status` and `validation`.
"""
