"""The counts of a soak, and the plain-text table that docs/reliability.md shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

VIOLATIONS = {
    "lost": "expected, and skipped without a gap",
    "duplicated": "delivered twice",
    "reordered": "delivered after a later one of its lane",
    "stale": "an older value of a key after a newer one",
    "corrupted": "differs from what was published, or no event id",
    "spurious": "never published, or not for this client",
    "contradicted": "reported lost but delivered, or the reverse",
    "unjustified": "a gap, a reset or an end without a cause",
    "miscounted": "a gap with a wrong count",
    "stuck": "expected over a good link, and not delivered in time",
    "refused": "a 5xx answer of a server that was up",
}
"""Each kind of violation and its meaning."""

MAX_EXAMPLES = 40


@dataclass
class Results:
    """The violations, events and cuts of one run. `examples` describes the first violations."""

    violations: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    cuts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def violation(self, kind: str, detail: str) -> None:
        """Count a violation of a promise."""
        assert kind in VIOLATIONS, kind
        self.violations[kind] += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"{kind}: {detail}")

    @property
    def total_violations(self) -> int:
        return self.violations.total()


@dataclass
class Report:
    """The parameters and the results of one run."""

    parameters: dict[str, object]
    results: Results

    def table(self) -> str:
        """Return all parameters and counts, one per line."""
        results = self.results
        lines = ["parameters"]
        lines += [f"  {name:<38} {value}" for name, value in self.parameters.items()]
        lines += ["events"]
        lines += [f"  {name:<38} {count:>12,}" for name, count in sorted(results.events.items())]
        lines += [f"cuts {'':<35} {results.cuts.total():>12,}"]
        lines += [f"  {name:<38} {count:>12,}" for name, count in sorted(results.cuts.items())]
        lines += [f"violations {'':<29} {results.total_violations:>12,}"]
        lines += [
            f"  {kind:<14} {results.violations[kind]:>6,}   {meaning}"
            for kind, meaning in VIOLATIONS.items()
        ]
        return "\n".join([*lines, *(f"! {example}" for example in results.examples)])
