"""The soak: random faults under load, judged by one oracle (docs/reliability.md)."""
