"""What one operation of each class of the core costs; `python -m tests.benchmarks.micro`."""
