"""The package is laid out as docs/design.md draws it: rings, an order of imports, no cycle."""

from __future__ import annotations

import ast
import functools
import re
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "holdfast"

# The parts of the standard library that know no clock, no randomness, no I/O and no concurrency.
PURE = frozenset(
    "__future__ abc array base64 binascii bisect collections contextlib copy dataclasses difflib"
    " enum fractions functools hashlib heapq hmac itertools json keyword math numbers operator re"
    " reprlib string struct types typing unicodedata weakref zlib".split()
)
BASE = frozenset({"errors", "reasons", "asgi_types"})
INNER = BASE | {"core", "brokers", "runtime"}
# The modules of each ring import these rings and modules beside their own ring. A folder inside
# brokers, such as brokers/redis, is a ring of its own. The ring "" is the package's own __init__.
RINGS = {
    "errors": frozenset({"reasons"}),
    "reasons": frozenset[str](),
    "asgi_types": frozenset[str](),
    "core": frozenset({"errors", "reasons"}),
    "brokers": BASE | {"core"},
    "brokers/": BASE | {"core", "holdfast.brokers.protocol", "holdfast.brokers.feed"},
    "runtime": BASE | {"core", "brokers"},
    "transports": INNER,
    "auth": INNER,
    "settings": INNER,
    "sockets": INNER,
    "asgi": INNER | {"transports", "auth", "settings", "sockets"},
    "client": frozenset({"core", "errors", "reasons"}),
    "browser": frozenset[str](),
}
PURE_RINGS = BASE | {"core"}
PLAIN_RINGS = frozenset({"brokers", "runtime", "transports"})
"""Beyond the standard library, these import the two dependencies of the package only."""


class Import(NamedTuple):
    """One imported module, by its absolute name."""

    line: int
    target: str


class Module(NamedTuple):
    """One file of the package."""

    name: str
    place: str
    nodes: tuple[ast.AST, ...]

    @property
    def ring(self) -> str:
        """The ring that it belongs to; "" is the package's own ``__init__``."""
        return ring_of(self.name, is_package=self.place.endswith("__init__.py"))


def ring_of(name: str, *, is_package: bool = False) -> str:
    """``holdfast.core.message`` is in ``core``, ``holdfast.brokers.redis.keys`` in ``brokers/``."""
    _, ring, *deeper = (*name.split("."), "")
    inside = len([each for each in deeper if each]) > (0 if is_package else 1)
    return "brokers/" if ring == "brokers" and inside else ring


RELEVANT = (
    *(ast.Import, ast.ImportFrom, ast.Call, ast.Global),
    *(ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await),
)


@functools.cache
def parse(source: str) -> tuple[ast.AST, ...]:
    """Return the nodes that can break a rule, once for all copies that the tests make of a file."""
    return tuple(node for node in ast.walk(ast.parse(source)) if isinstance(node, RELEVANT))


def read(package: Path) -> dict[str, str]:
    """Return the source of each Python file under the folder, by its path."""
    paths = sorted(package.rglob("*.py"))
    return {path.relative_to(package).as_posix(): path.read_text("utf-8") for path in paths}


def modules(files: dict[str, str]) -> dict[str, Module]:
    """Return the modules of the files, by their dotted names."""
    found = {}
    for place, source in files.items():
        parts = ["holdfast", *PurePosixPath(place).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, place, parse(source))
    return found


def imports(module: Module, known: dict[str, Module]) -> Iterator[Import]:
    """Everything that a module imports: at the top, in functions, and for type checkers only."""
    for node in module.nodes:
        match node:
            case ast.Import(names=names):
                yield from (Import(node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(names=names, level=level):
                base = node.module or ""
                if level:
                    anchor = module.name.split(".")
                    up = level - module.place.endswith("__init__.py")
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


FILES = read(SOURCE)


def allowed(importer: Module, target: str, known: dict[str, Module]) -> bool:
    """Return True if the module may import the other one."""
    top = target.partition(".")[0]
    ring = importer.ring
    if ring == "":
        return top == "holdfast" or top in sys.stdlib_module_names
    if top != "holdfast":
        if ring in PURE_RINGS:
            return top in PURE or top == "typing_extensions"
        if ring in PLAIN_RINGS:
            return top in sys.stdlib_module_names or top in {"anyio", "typing_extensions"}
        return target != "<computed>"
    found = known[target].ring if target in known else ring_of(target)
    if ring == found == "brokers/":
        return importer.name.split(".")[:3] == target.split(".")[:3]
    return found == ring or bool({found, target} & RINGS.get(ring, frozenset()))


def impurities(module: Module) -> Iterator[tuple[int, str]]:
    """Yield the constructs that are impure without an import."""
    for node in module.nodes:
        match node:
            case ast.AsyncFunctionDef() | ast.AsyncFor() | ast.AsyncWith() | ast.Await():
                yield node.lineno, "is async"
            case ast.Global():
                yield node.lineno, "assigns a global"
            case ast.Call(func=ast.Name(id="open" | "print" | "input" as name)):
                yield node.lineno, f"calls {name}()"


def violations(files: dict[str, str]) -> list[str]:
    """One line for each import or construct that breaks the rings."""
    known = modules(files)
    found = []
    for module in known.values():
        found += [
            f"{module.place}:{line}: {module.ring or 'holdfast'} may not import {target}"
            for line, target in imports(module, known)
            if not allowed(module, target, known)
        ]
        if module.ring == "core":
            found += [f"{module.place}:{line}: core {what}" for line, what in impurities(module)]
    return found


def test_imports_point_inward() -> None:
    """No module of the package imports a module that lies outside its ring."""
    assert violations(FILES) == []


@pytest.mark.parametrize("ring", sorted(RINGS.keys() - {"browser"}))
def test_every_ring_is_walked(ring: str) -> None:
    """The walk covers each ring, so a folder that moves cannot escape it."""
    assert any(module.ring == ring for module in modules(FILES).values())


def test_every_module_has_a_ring() -> None:
    """A new folder or module of the package gets its place in the order."""
    assert {module.ring for module in modules(FILES).values()} <= {"", *RINGS}


def cycles(files: dict[str, str]) -> list[list[str]]:
    """Return each group of modules that import each other, by Tarjan's algorithm.

    Imports for type checkers and imports in functions count. A package's ``__init__`` counts where
    it is named, although Python runs it before each of its modules.
    """
    known = modules(files)
    targets = {
        name: [target for _, target in imports(module, known) if target in known]
        for name, module in known.items()
    }
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = lowest[name] = len(index)
        stack.append(name)
        for target in targets[name]:
            if target not in index:
                visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in stack:
                lowest[name] = min(lowest[name], index[target])
        if lowest[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1 or name in targets[name]:
                found.append(sorted(group))

    for name in known:
        if name not in index:
            visit(name)
    return sorted(found)


def test_imports_form_a_tree() -> None:
    """No two modules of the package import each other, on whatever way."""
    assert cycles(FILES) == []


@pytest.mark.parametrize(
    "files",
    [
        {"a.py": "from . import b", "b.py": "from . import a"},
        {"a.py": "from .b import x", "b.py": "if TYPE_CHECKING:\n    from .a import y"},
        {"a.py": "from .b import x", "b.py": "def f():\n    from holdfast.a import y"},
        {"a.py": "from .b import x", "b.py": "from .c import x", "c.py": "import holdfast.a"},
        {"a/__init__.py": "from .b import x", "a/b.py": "from . import y"},
        {"a/b.py": "from ..c import x", "c.py": "from .a.b import y"},
        {"a.py": "from .a import x"},
        {"a.py": "import_module('holdfast.b')", "b.py": "from .a import x"},
    ],
)
def test_seeded_cycle_is_found(files: dict[str, str]) -> None:
    """A cycle is found by way of type checkers, functions, packages and several modules."""
    assert len(cycles({"__init__.py": "", **files})) == 1


@pytest.mark.parametrize(
    "files",
    [
        {"a.py": "from .b import x\nfrom .c import x", "b.py": "from .c import x", "c.py": ""},
        {"a/__init__.py": "from .b import x", "a/b.py": "from .c import y", "a/c.py": ""},
        {"__init__.py": "from .a import x", "a.py": "from .b.c import x", "b/c.py": "import b"},
    ],
)
def test_tree_of_imports_passes(files: dict[str, str]) -> None:
    """Modules that import each other in one direction are not a cycle."""
    assert cycles({"__init__.py": "", **files}) == []


def package_of(files: dict[str, str], folder: Path) -> Path:
    """Write a package of these files."""
    package = folder / "holdfast"
    for name, code in {"__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, "utf-8")
    return package


def picture(document: str) -> tuple[set[str], set[str]]:
    """Return the paths that the layout in docs/design.md draws, and its folders without content.

    The layout is the code fence that begins with ``src/holdfast/``. Each line is a folder with the
    names in it, or more names of the folder that the line is indented under. A file of Python has
    no suffix. ``#`` begins a remark, and so does a word with a colon.
    """
    fences = re.findall(r"^```\w*\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    (layout,) = [each for each in fences if each.lstrip().startswith("src/holdfast/")]
    drawn, folders = set[str](), {""}
    parents: list[tuple[int, str]] = []
    for line in layout.splitlines()[1:]:
        content = re.split(r"#|\S+:(?:\s|$)", line)[0].replace("·", " ").rstrip()
        if not content:
            continue
        indent = len(content) - len(content.lstrip())
        while parents and parents[-1][0] >= indent:
            parents.pop()
        where = parents[-1][1] if parents else ""
        for number, name in enumerate(content.split()):
            drawn.add(where + name)
            if name.endswith("/"):
                folders.add(where + name)
                if number == 0:
                    parents.append((indent, where + name))
                    where += name
    empty = {
        each
        for each in folders
        if not any(path != each and path.startswith(each) for path in drawn)
    }
    return drawn, empty


def on_disk(package: Path, hidden: set[str]) -> set[str]:
    """Return the same paths of the tree on disk, without the content of the hidden folders."""
    found = set()
    for path in package.rglob("*"):
        name = path.relative_to(package).as_posix()
        if "__pycache__" in name or path.name in {"__init__.py", "py.typed"}:
            continue
        name = f"{name}/" if path.is_dir() else name.removesuffix(".py")
        if not any(name != each and name.startswith(each) for each in hidden):
            found.add(name)
    return found


def test_layout_is_as_drawn() -> None:
    """Each module lies where docs/design.md draws it, and the drawing has no module too many."""
    drawn, hidden = picture((ROOT / "docs" / "design.md").read_text("utf-8"))
    assert drawn - {"__init__"} == on_disk(SOURCE, hidden)


LAYOUT = """
# Design

```text
other
```

```text
src/holdfast/
  __init__  errors
  core/        pure: no async, no I/O
    log/       history pages   # the log
    message · cursor
  brokers/     memory redis/
  auth/
```
"""


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("core/log/extra.py", "core/log/extra"),
        ("core/extra.py", "core/extra"),
        ("extra/a.py", "extra/"),
        ("core/log/commands.lua", "core/log/commands.lua"),
        ("-core/cursor.py", "core/cursor"),
        ("-core/log/pages.py", "core/log/pages"),
        ("-errors.py", "errors"),
        ("brokers/redis/any.py", None),
        ("auth/any.py", None),
        ("core/py.typed", None),
    ],
)
def test_seeded_difference_is_found(change: str, difference: str | None, tmp_path: Path) -> None:
    """A file that is not drawn is found, and so is a drawn file that is missing."""
    files = dict.fromkeys(
        "errors core/message core/cursor core/log/history core/log/pages core/log/__init__"
        " brokers/memory brokers/redis/broker auth/jwt".split(),
        "",
    )
    package = package_of({f"{name}.py": "" for name in files}, tmp_path)
    if change.startswith("-"):
        (package / change[1:]).unlink()
    else:
        package_of({change: ""}, tmp_path)
    drawn, hidden = picture(LAYOUT)
    found = (drawn - {"__init__"}) ^ on_disk(package, hidden)
    assert (difference in found) if difference else (found == set())


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
        ("brokers/seeded.py", "from ..runtime import seeded"),
        ("brokers/seeded.py", "from .redis import RedisBroker"),
        ("brokers/seeded.py", "import redis"),
        ("brokers/redis/seeded.py", "from ..memory import MemoryBroker"),
        ("brokers/redis/seeded.py", "from ...runtime.seeded import x"),
        ("brokers/other/seeded.py", "from ..redis import RedisBroker"),
        ("runtime/seeded.py", "from ..brokers.redis import RedisBroker"),
        ("core/seeded.py", "from ..brokers import feed"),
        ("core/seeded.py", "from ..asgi_types import Scope"),
        ("asgi_types.py", "from holdfast.errors import HoldfastError"),
        ("errors.py", "from .asgi_types import Scope"),
        ("transports/seeded.py", "from holdfast.auth import anonymous"),
        ("transports/seeded.py", "import uvicorn"),
        ("auth/seeded.py", "from ..transports import sse"),
        ("settings.py", "from .sockets import listening_socket"),
        ("asgi/seeded.py", "from holdfast.client import connect"),
        ("asgi/seeded.py", "from ..brokers.redis import RedisBroker"),
        ("client/seeded.py", "from ..asgi_types import Scope"),
        ("asgi/seeded.py", "from holdfast import Broadcaster"),
        ("__init__.py", "import starlette"),
    ],
)
def test_seeded_violation_is_found(place: str, code: str) -> None:
    """The walker finds each kind of forbidden import when it is put into the package."""
    files = {"runtime/seeded.py": "", place: "", **FILES}
    before = violations(files)
    files[place] += f"\n{code}\n"
    assert len(violations(files)) == len(before) + 1


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
        ("brokers/seeded.py", "import anyio\nfrom ..core import other\nfrom . import seeded"),
        (
            "brokers/redis/seeded.py",
            "import redis\nfrom ..feed import x\nfrom .seeded import y",
        ),
        ("brokers/redis/seeded.py", "from ...core.seeded import make_draft"),
        ("asgi/seeded.py", "from ..transports import sse, websocket\nfrom ..auth import anonymous"),
        ("__init__.py", "from holdfast.runtime import seeded\nfrom .transports.sse import seeded"),
    ],
)
def test_inward_import_is_allowed(place: str, code: str) -> None:
    """The walker accepts each import that points inward, absolute or relative."""
    places = (
        *("__init__.py", "errors.py", "transports/sse.py", "transports/websocket.py"),
        *("core/other.py", "runtime/__init__.py", "runtime/seeded.py", "brokers/feed.py"),
    )
    assert violations({**dict.fromkeys(places, ""), place: code}) == []


def foreign_assignments(source: str) -> list[str]:
    """Return the attributes that code assigns on another object than its own.

    An object's own are `self.name`, and the fields of its private records: `self._record.name`.
    """
    targets: list[ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets.append(node.target)
    each = [one for target in targets for one in getattr(target, "elts", [target])]
    owners = [(one, ast.unparse(one.value)) for one in each if isinstance(one, ast.Attribute)]
    return [
        ast.unparse(one) for one, owner in owners if re.fullmatch(r"self(\._\w+)?", owner) is None
    ]


@pytest.mark.parametrize(
    "place", [place for place in FILES if place.startswith(("runtime/", "transports/", "asgi/"))]
)
def test_no_object_assigns_the_attributes_of_another(place: str) -> None:
    """An object owns its state: no other object assigns its attributes."""
    assert foreign_assignments(FILES[place]) == []


@pytest.mark.parametrize(
    "code", ["a.b = 1", "a.b += 1", "self.node.x += 1", "a.b: int = 1", "a.b, c = 1, 2"]
)
def test_seeded_foreign_assignment_is_found(code: str) -> None:
    """Each form of an assignment to another object's attribute is found."""
    assert len(foreign_assignments(code)) == 1
