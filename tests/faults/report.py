"""The table that a soak ends in: plain text, as docs/reliability.md has it."""

from __future__ import annotations

from dataclasses import dataclass, field

from .ledger import BREACHES

MEANING = {
    "lost": "owed, and passed over without a word",
    "duplicated": "came twice",
    "reordered": "came after a later one of its lane",
    "stale": "an older value of a key after a newer one",
    "corrupted": "not what was published, or no event id",
    "spurious": "never published, or not for this client",
    "contradicted": "declared lost but delivered, or the reverse",
    "unjustified": "a gap, a reset or an end without a cause",
    "miscounted": "a gap with a wrong count",
    "stuck": "owed over a good link, and not there in time",
}


@dataclass
class Report:
    """What a soak did and what the oracle counted."""

    parameters: dict[str, object]
    happened: dict[str, int]
    cuts: dict[str, int]
    counts: dict[str, int]
    examples: list[str] = field(default_factory=list)

    @property
    def cuts_in_all(self) -> int:
        return sum(self.cuts.values())

    @property
    def breaches(self) -> int:
        return sum(self.counts.get(kind, 0) for kind in BREACHES)

    def table(self) -> str:
        """Everything, line by line."""
        lines = ["parameters"]
        lines += [f"  {name:<38} {value}" for name, value in self.parameters.items()]
        lines += ["what happened"]
        happened = dict(sorted(self.happened.items()))
        lines += [f"  {name:<38} {count:>12,}" for name, count in happened.items()]
        lines += [f"cuts {'':<35} {self.cuts_in_all:>12,}"]
        lines += [f"  {name:<38} {count:>12,}" for name, count in sorted(self.cuts.items())]
        lines += [f"what the oracle counted {'':<16} {self.breaches:>12,}"]
        lines += [
            f"  {kind:<14} {self.counts.get(kind, 0):>6,}   {MEANING[kind]}" for kind in BREACHES
        ]
        return "\n".join([*lines, *(f"! {example}" for example in self.examples)])
