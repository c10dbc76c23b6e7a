"""Each target is searched for some seconds by a fuzzer that follows coverage."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS
from tests.support import needs

pytestmark = [
    needs(module="atheris", reason="coverage guides the search for inputs that break"),
    pytest.mark.slow,
    pytest.mark.real_time,
]

SECONDS = 3
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_fuzzer_finds_no_failing_input(target: str, tmp_path: Path) -> None:
    """No input breaks the target, takes longer than seconds, or exhausts the memory."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", target, "--seconds", str(SECONDS),
         "--corpus", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=90,
        check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    runs = re.search(r"number_of_executed_units: (\d+)", said)
    assert runs, said[-1000:]
    assert int(runs[1]) >= 100, "the fuzzer hardly ran"
