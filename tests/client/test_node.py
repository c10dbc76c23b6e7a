"""The browser client in node: what needs no page, run by node's own test runner."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import require

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FILES = sorted(path.name for path in HERE.glob("*.test.mjs"))


def node() -> str:
    """The path of node; the test is skipped where it is older than 20, or not there."""
    executable = require(executable="node", reason="the browser client runs in node")
    version = subprocess.run([executable, "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.lstrip("v").split(".")[0]) < 20:
        message = f"node {version.stdout.strip()} is older than 20: the browser client runs in it"
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return executable


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
    """None is left out because it has another name."""
    names = ["close", "commands", "holdfast", "pure", "stream", "tabs"]
    assert [f"{name}.test.mjs" for name in names] == FILES
