"""What this package costs and how fast it reacts: `python -m tests.benchmarks`."""
