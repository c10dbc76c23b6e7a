"""Promise 1 as a model: a world that is driven step by step, an oracle, and mutants to kill.

`python -m tests.model.mutants` shows every rule of docs/design.md broken on purpose, and the trace
that finds it.
"""
