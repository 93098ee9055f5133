"""Define the contract of a backend, with the policy that all engines share.

May use `core` and SQL with placeholders. Must not use a driver, ask for the vendor, or know
`initialization`.
"""
