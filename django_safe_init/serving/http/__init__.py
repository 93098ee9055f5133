"""The answers to requests, built from what is known."""
