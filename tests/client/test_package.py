"""holdfast.client: its public names."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast.client
from holdfast.client import Stream, connect

SOURCE = Path(holdfast.client.__file__).parents[1]
PUBLIC_RECORDS = {"Gap", "Message"}
"""Records whose counterparts on the server's side are internal."""


def test_public_names_exist_and_are_sorted() -> None:
    """Each name in ``__all__`` can be imported, and the list is sorted."""
    names = holdfast.client.__all__
    assert list(names) == sorted(set(names))
    assert [name for name in names if not hasattr(holdfast.client, name)] == []


@pytest.mark.parametrize(
    "function", [connect, Stream.subscribe, Stream.unsubscribe, Stream.__anext__, Stream.__aenter__]
)
def test_public_functions_are_documented_in_full(function: object) -> None:
    """The docstring names each parameter, the errors, and for a coroutine its cancellation."""
    text = inspect.getdoc(function) or ""
    assert callable(function)
    parameters = [name for name in inspect.signature(function).parameters if name != "self"]
    assert [name for name in parameters if f"    {name}: " not in text] == []
    assert "Raises:" in text
    assert ("Cancellation:" in text) == inspect.iscoroutinefunction(function)


def classes(folder: Path) -> dict[str, str]:
    """Return the file of each public class below a folder, by the name of the class."""
    return {
        node.name: str(path.relative_to(SOURCE))
        for path in sorted(folder.rglob("*.py"))
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }


def test_class_names_of_the_client_are_its_own() -> None:
    """No other public class of the package has the name of a class of the client."""
    client = classes(SOURCE / "client")
    others = {
        name: file
        for folder in SOURCE.iterdir()
        if folder.is_dir() and folder.name != "client"
        for name, file in classes(folder).items()
    }
    shared = {name: others[name] for name in client if name in others}
    assert {name: file for name, file in shared.items() if name not in PUBLIC_RECORDS} == {}


def test_import_without_httpx_names_the_extra() -> None:
    """The error says which extra to install."""
    code = "import sys; sys.modules['httpx'] = None; import holdfast.client"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert 'ModuleNotFoundError: holdfast.client needs httpx: pip install "holdfast[client]"' in (
        done.stderr
    )
