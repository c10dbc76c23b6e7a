"""What one Redis carries for holdfast; `python -m tests.benchmarks.redis` measures it."""
