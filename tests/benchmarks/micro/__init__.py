"""The cost of one operation of each core class: `python -m tests.benchmarks.micro`."""
