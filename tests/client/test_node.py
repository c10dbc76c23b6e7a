"""The browser client in node: the tests that need no page, run by node's own test runner."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.tools import node

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FILES = sorted(path.name for path in HERE.glob("*.test.mjs"))


@pytest.mark.parametrize("file", FILES)
def test_in_node(file: str) -> None:
    """Every test of the file passes."""
    command = [node(), "--no-warnings", "--experimental-websocket", "--test", str(HERE / file)]
    environment = os.environ | {"HOLDFAST_PYTHON": sys.executable}
    ran = subprocess.run(
        command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110
    )
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    assert "fail 0" in ran.stdout


def test_files_are_all_found() -> None:
    """Each file of tests has a name that the runner finds."""
    names = ["close", "commands", "holdfast", "pure", "stream", "tabs"]
    assert [f"{name}.test.mjs" for name in names] == FILES
