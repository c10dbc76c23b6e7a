"""Imports point inward only: core, then runtime, then the edges."""

from __future__ import annotations

import ast
import functools
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[1] / "src" / "holdfast"

# The parts of the standard library that know no clock, no randomness, no I/O and no concurrency.
PURE = frozenset(
    "__future__ abc array base64 binascii bisect collections contextlib copy dataclasses enum"
    " fractions functools hashlib heapq hmac itertools json keyword math numbers operator re"
    " reprlib string struct types typing unicodedata weakref zlib".split()
)
# What an edge shares with others lies further inward; only this one puts edges together.
COMPOSER = "asgi"
# This one runs where no server does.
CONSUMER = "client"
INNER = ("errors", "asgi_types", "core", "brokers", "runtime", "transports")


class Import(NamedTuple):
    """One imported module, by its absolute name."""

    line: int
    target: str


class Module(NamedTuple):
    """One file of the package."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def part(self) -> str:
        """The ring or edge that it belongs to; "" is the package's own ``__init__``."""
        return part_of(self.name)


def part_of(name: str) -> str:
    """The second component of a dotted name: ``holdfast.core.message`` is in ``core``."""
    return (*name.split("."), "")[1]


@functools.cache
def parse(source: str) -> ast.Module:
    """Parse a file once for all the copies of the package that the tests make."""
    return ast.parse(source)


def modules(package: Path) -> dict[str, Module]:
    """Every Python file under the package's folder, by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path, parse(path.read_text("utf-8")))
    return found


def imports(module: Module, known: dict[str, Module]) -> Iterator[Import]:
    """Everything that a module imports: at the top, in functions, and for type checkers only."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Import(names=names):
                yield from (Import(node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(names=names, level=level):
                base = node.module or ""
                if level:
                    anchor = module.name.split(".")
                    up = level - (module.path.name == "__init__.py")
                    anchor = anchor[: len(anchor) - up]
                    base = ".".join([*anchor, base] if base else anchor)
                for alias in names:
                    whole = f"{base}.{alias.name}"
                    yield Import(node.lineno, whole if whole in known else base)
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module")
                | ast.Attribute(attr="__import__" | "import_module")
            ):
                match node.args:
                    case [ast.Constant(value=str(name)), *_] if not name.startswith("."):
                        yield Import(node.lineno, name)
                    case _:
                        yield Import(node.lineno, "<computed>")


def allowed(importer: str, target: str) -> bool:
    """Whether code of the given part may import the module."""
    top = target.partition(".")[0]
    if importer == "":
        return top == "holdfast" or top in sys.stdlib_module_names
    if top != "holdfast":
        if importer in {"core", "errors", "asgi_types"}:
            return top in PURE or top == "typing_extensions"
        if importer in {"runtime", "transports"}:
            return top in sys.stdlib_module_names or top in {"anyio", "typing_extensions"}
        return target != "<computed>"
    part = part_of(target)
    if importer == CONSUMER:
        return part in {"errors", "core", CONSUMER}
    if importer == "brokers" and target.startswith("holdfast.runtime."):
        return target in {"holdfast.runtime.options", "holdfast.runtime.publishing"}
    if importer in INNER:
        return part in INNER[: INNER.index(importer) + 1]
    return part in INNER or part == importer or (importer == COMPOSER and part != "")


def impurities(module: Module) -> Iterator[tuple[int, str]]:
    """What needs no import and is impure all the same."""
    for node in ast.walk(module.tree):
        match node:
            case ast.AsyncFunctionDef() | ast.AsyncFor() | ast.AsyncWith() | ast.Await():
                yield node.lineno, "is async"
            case ast.Global():
                yield node.lineno, "assigns a global"
            case ast.Call(func=ast.Name(id="open" | "print" | "input" as name)):
                yield node.lineno, f"calls {name}()"


def violations(package: Path) -> list[str]:
    """One line for each import or construct that breaks the rings."""
    known = modules(package)
    found = []
    for module in known.values():
        place = module.path.relative_to(package).as_posix()
        found += [
            f"{place}:{line}: {module.part or 'holdfast'} may not import {target}"
            for line, target in imports(module, known)
            if not allowed(module.part, target)
        ]
        if module.part == "core":
            found += [f"{place}:{line}: core {what}" for line, what in impurities(module)]
    return found


def test_imports_point_inward() -> None:
    """No module of the package imports what lies outside its ring."""
    assert violations(SOURCE) == []


@pytest.mark.parametrize("ring", ["core", "runtime", "asgi"])
def test_every_ring_is_walked(ring: str) -> None:
    """The walk covers each ring, so a folder that moves cannot escape it."""
    assert any(module.part == ring for module in modules(SOURCE).values())


CLOCKS = (
    "asyncio anyio time random secrets logging threading socket os signal contextvars uuid datetime"
    " queue multiprocessing concurrent.futures subprocess select selectors ssl sys io pathlib"
    " tempfile warnings importlib sched tracemalloc gc"
).split()


@pytest.mark.parametrize(
    ("place", "code"),
    [
        *(("core/seeded.py", f"import {name}") for name in CLOCKS),
        ("core/seeded.py", "from time import monotonic"),
        ("core/seeded.py", "def f():\n    import time"),
        ("core/seeded.py", "if TYPE_CHECKING:\n    from holdfast.runtime import seeded"),
        ("core/seeded.py", "from ..runtime import seeded"),
        ("core/seeded.py", "from .. import runtime"),
        ("core/seeded.py", "from .. import Broadcaster"),
        ("core/deep/seeded.py", "from ...runtime import seeded"),
        ("core/deep/__init__.py", "from ...runtime import seeded"),
        ("core/seeded.py", "import holdfast"),
        ("core/seeded.py", "from holdfast import Broadcaster"),
        ("core/seeded.py", "import redis"),
        ("core/seeded.py", "__import__('time')"),
        ("core/seeded.py", "async def f(): ..."),
        ("core/seeded.py", "def f():\n    global x"),
        ("core/seeded.py", "open('x')"),
        ("errors.py", "from holdfast.core import seeded"),
        ("errors.py", "import asyncio"),
        ("runtime/seeded.py", "from holdfast.asgi import LiveApp"),
        ("runtime/seeded.py", "from holdfast.transports import sse"),
        ("runtime/seeded.py", "def f():\n    from ..auth import jwt"),
        ("runtime/seeded.py", "import redis.asyncio"),
        ("runtime/seeded.py", "import_module('holdfast.asgi')"),
        ("runtime/seeded.py", "importlib.import_module(name)"),
        ("transports/sse.py", "from holdfast.asgi import LiveApp"),
        ("transports/sse.py", "from holdfast import Broadcaster"),
        ("auth/seeded.py", "from ..settings import Settings"),
        ("client/seeded.py", "from ..runtime import seeded"),
        ("client/seeded.py", "from holdfast import Priority"),
        ("client/seeded.py", "from ..auth import anonymous"),
        ("brokers/seeded.py", "from holdfast.auth import anonymous"),
        ("asgi/seeded.py", "from holdfast import Broadcaster"),
        ("__init__.py", "import starlette"),
    ],
)
def test_seeded_violation_is_found(place: str, code: str, tmp_path: Path) -> None:
    """The walker finds each kind of forbidden import when it is put into a copy of the package."""
    package = tmp_path / "holdfast"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for seeded in (
        "transports/sse.py",
        "transports/websocket.py",
        "settings.py",
        "runtime/seeded.py",
        place,
    ):
        path = package / seeded
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    before = violations(package)
    with (package / place).open("a", encoding="utf-8") as file:
        file.write(f"\n{code}\n")
    assert len(violations(package)) == len(before) + 1


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("core/seeded.py", "from collections.abc import Iterator\nfrom . import other"),
        ("core/deep/__init__.py", "from ...errors import HoldfastError\nfrom .. import other"),
        ("core/seeded.py", "from .. import errors"),
        ("runtime/seeded.py", "import asyncio, anyio, time\nfrom ..core import other"),
        (
            "transports/sse.py",
            "import time\nfrom ..core import other\nfrom ..runtime import seeded",
        ),
        ("auth/seeded.py", "import jwt\nfrom . import seeded\nfrom holdfast.auth import anonymous"),
        ("client/seeded.py", "import httpx\nfrom ..core import other\nfrom . import seeded"),
        ("asgi/seeded.py", "from ..transports import sse, websocket\nfrom ..auth import anonymous"),
        ("__init__.py", "from holdfast.runtime import seeded\nfrom .transports.sse import seeded"),
    ],
)
def test_inward_import_is_allowed(place: str, code: str, tmp_path: Path) -> None:
    """The walker accepts each import that points inward, absolute or relative."""
    package = tmp_path / "holdfast"
    for seeded in (
        *(
            "__init__.py",
            "errors.py",
            "transports/sse.py",
            "transports/websocket.py",
            "core/other.py",
        ),
        *("runtime/__init__.py", "runtime/seeded.py", place),
    ):
        path = package / seeded
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (package / place).write_text(code, "utf-8")
    assert violations(package) == []
