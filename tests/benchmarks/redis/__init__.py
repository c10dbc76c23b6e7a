"""The capacity of one Redis for holdfast: `python -m tests.benchmarks.redis`."""
