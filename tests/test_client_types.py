"""client.d.ts: what TypeScript makes of the browser client's names."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support import require

ROOT = Path(__file__).parents[1]


def test_typescript_agrees_with_the_uses_in_a_page():
    """tests/typing/client.ts has no error, under the strictest rules, and each expected one."""
    tsc = require(executable="tsc", reason="client.d.ts is checked by TypeScript")
    options = ["--noEmit", "--strict", "--exactOptionalPropertyTypes", "--target", "es2022"]
    options += ["--moduleResolution", "node", "--lib", "es2022,dom,dom.iterable"]
    checked = subprocess.run(
        [tsc, *options, "tests/typing/client.ts"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
