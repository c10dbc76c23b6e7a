"""Node and the npm packages that the tests of the browser client need."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support import require

BROWSER = Path(__file__).parents[2] / "src" / "holdfast" / "browser"
SOURCE = BROWSER / "source"
MODULES = SOURCE / "node_modules"


def node() -> str:
    """The path of node; the test is skipped where it is older than 20, or missing."""
    executable = require(executable="node", reason="the browser client runs in node")
    version = subprocess.run([executable, "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.lstrip("v").split(".")[0]) < 20:
        _skip(f"node {version.stdout.strip()} is older than 20: the browser client runs in it")
    return executable


def npm_packages() -> Path:
    """The folder of the npm packages that build the client; the test is skipped without them."""
    if not MODULES.is_dir():
        folder = SOURCE.relative_to(Path.cwd()) if SOURCE.is_relative_to(Path.cwd()) else SOURCE
        _skip(f"the browser client is built by npm packages: run `npm ci` in {folder}")
    return MODULES


def _skip(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
