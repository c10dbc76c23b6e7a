"""The browser client that is committed is the one that its TypeScript sources build."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.client.tools import BROWSER, SOURCE, node, npm_packages

BUILT = ["client.d.ts", "client.js", "tabs.js"]


def build(folder: Path) -> None:
    """Check the types of the sources, and build the client into a folder."""
    npm_packages()
    command = [node(), str(SOURCE / "build.mjs"), str(folder)]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_committed_client_is_current(tmp_path: Path) -> None:
    """A build writes the committed files, byte by byte, and nothing else."""
    build(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == BUILT
    stale = [
        name for name in BUILT if (tmp_path / name).read_bytes() != (BROWSER / name).read_bytes()
    ]
    assert not stale, f"run `npm run build` in {SOURCE}: {stale} are not current"


def test_the_committed_files_are_all_built() -> None:
    """The package has no file of the client that is kept by hand."""
    assert sorted(path.name for path in BROWSER.iterdir() if path.is_file()) == BUILT


def test_the_versions_of_the_tools_are_pinned() -> None:
    """Another version of a tool would build other bytes. The lock file names no registry."""
    manifest = json.loads((SOURCE / "package.json").read_text("utf-8"))
    lock = json.loads((SOURCE / "package-lock.json").read_text("utf-8"))["packages"]
    assert "dependencies" not in manifest
    for name, version in manifest["devDependencies"].items():
        assert lock[f"node_modules/{name}"]["version"] == version
    assert not [path for path, package in lock.items() if "resolved" in package]
    assert all("integrity" in package for path, package in lock.items() if path)
