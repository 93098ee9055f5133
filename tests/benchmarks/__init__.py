"""Measure the costs and reaction times of this package: `python -m tests.benchmarks`."""
