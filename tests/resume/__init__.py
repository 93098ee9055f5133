"""Random migrations, killed at random points and continued: `python -m tests.resume`."""
