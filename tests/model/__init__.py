"""Promise 1 as a model: a world that a script drives, an oracle, and mutants.

`python -m tests.model.mutants` breaks each rule of docs/design.md, and shows the trace that
detects it.
"""
