"""Threads and the child process of a web process."""
