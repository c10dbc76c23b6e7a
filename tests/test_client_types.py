"""client.d.ts: the types that a page in TypeScript gets."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.client.tools import node, npm_packages

ROOT = Path(__file__).parents[1]


def test_typescript_accepts_and_rejects_the_uses_in_a_page():
    """tests/typing/client.ts has no error, under the strictest rules, and each expected one."""
    tsc = npm_packages() / "typescript" / "bin" / "tsc"
    options = ["--noEmit", "--strict", "--exactOptionalPropertyTypes", "--target", "es2022"]
    options += ["--module", "esnext", "--moduleResolution", "bundler"]
    options += ["--lib", "es2022,dom,dom.iterable"]
    checked = subprocess.run(
        [node(), tsc, *options, "tests/typing/client.ts"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
