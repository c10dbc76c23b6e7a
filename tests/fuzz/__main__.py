"""Search by coverage: `python -m tests.fuzz <target> [--seconds N] [--corpus FOLDER]`.

The command ends with status 0 and prints the number of runs. At the first failing input it ends
with another status, prints the input and keeps it in the folder. atheris is required.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["holdfast"]):
    from tests.fuzz.targets import ID, TARGETS

from tests.bad_inputs.inputs import CURSORS, NO_TOPICS, NOT_JSON, NOT_TYPED, ODD_TOPICS, mangled

MAX_BYTES = 4096
"""Bytes. No fuzzed limit is larger; size limits have tests of their own."""

COMMANDS = [
    '{"type":"ping"}', '{"type":"subscribe","topics":["a","b.*"]}', '{"type":"ack","id":"x"}',
    '{"type":"unsubscribe","metrics":"t"}', '{"type":"resume","id":"\\ud800"}',
]  # fmt: skip
SEEDS = {
    "body": [chr(len(text)) + text for text in COMMANDS],
    "conversation": [*COMMANDS, "\n".join(COMMANDS), *NOT_JSON[:30], *NOT_TYPED],
    "event_id": [*mangled(ID.decode()), *CURSORS, ID.decode(), "\0\0\0"],
    "event_stream": [*COMMANDS, "x[1,2.5,null]", "\x90\u2028\r\n\0"],
    "matching": ["a.b|a.*|**", "*.*.a|a.a.a|a.**", "|".join(ODD_TOPICS)],
    "message": [*COMMANDS, *NOT_JSON[:30], *NOT_TYPED],
    "query": ["topics=a,b&reconnect_token=x", "a=%C3%A9+%ff&&=&a=b", "%", "a=\xe9"],
    "subprotocols": ["holdfast, bearer.a%20b", "bearer.a,holdfast", "holdfast,bearer.%ff,bearer.b"],
    "token": ["abcdefghijklmnopqrst_-", "A" * 22],
    "topic": [*NO_TOPICS, *ODD_TOPICS],
    "wait": ["0", "25", "1.5", "1e9", "-1", "%2b1", "nan", "\u0665", "00001", "1."],
}


def main() -> None:
    """Read the command line and start libFuzzer, which ends the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--corpus", type=Path, help="where inputs are kept from run to run")
    given = parser.parse_args()
    corpus = given.corpus or Path(tempfile.mkdtemp(prefix="holdfast-fuzz-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(SEEDS[given.target]):
        seed = text.encode("utf-8", "surrogatepass")[:MAX_BYTES]
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(
        [
            sys.argv[0],
            str(corpus),
            f"-max_total_time={given.seconds}",
            f"-max_len={MAX_BYTES}",
            f"-seed={given.seed}",
            f"-artifact_prefix={corpus}/",
            "-timeout=10",  # a slower input counts as a finding
            "-print_final_stats=1",
            "-verbosity=1",
        ],
        TARGETS[given.target],
    )
    atheris.Fuzz()


main()
