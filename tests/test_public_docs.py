"""Everything public is documented in one form, and has a name of its own.

The form is that of `holdfast.client.connect`: one line that says what is done or returned, then the
sections Args, Returns, Raises and Cancellation where they apply.
"""

from __future__ import annotations

import enum
import inspect
import re
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import holdfast
from holdfast.core.publishing import PublishOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(holdfast.__file__).parent
MODULES = (
    "holdfast",
    "holdfast.auth",
    "holdfast.auth.jwt",
    "holdfast.brokers.redis",
    "holdfast.client",
    "holdfast.transports.duplex",
    "holdfast.transports.long_poll",
    "holdfast.transports.sse",
    "holdfast.transports.websocket",
)
MAX_COLUMNS = 100
MIN_PARAMETERS = 3
"""Parameters of a function from which an Args section names each of them."""

# Classes whose objects the application gets from a function: their constructors are not public.
RESULTS = {"holdfast.Connection": "Broadcaster.connect", "holdfast.client.Stream": "connect"}

SECTION = re.compile(r"^(\w+):\n((?:    .*\n|\n)+)", re.MULTILINE)
LISTS = {"Args", "Attributes", "Raises"}
"""Sections with one entry per name; the other sections are one paragraph."""


class Public(NamedTuple):
    """One public class, function or method."""

    name: str
    value: Any
    owner: type | None = None


def classes_and_functions(module: str) -> Iterator[Public]:
    """Yield the public classes and functions of a module, which are made in this package."""
    loaded = import_module(module)
    names = getattr(loaded, "__all__", None)
    for name in names or [name for name in vars(loaded) if not name.startswith("_")]:
        value = getattr(loaded, name)
        made_here = names is not None or getattr(value, "__module__", None) == module
        is_documented = inspect.isclass(value) or inspect.isfunction(value)
        if made_here and is_documented and value.__module__.startswith("holdfast"):
            yield Public(f"{module}.{name}", value)


def members(found: Public) -> Iterator[Public]:
    """Yield the public methods and properties that a class of this package adds."""
    for name, value in vars(found.value).items():
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        function = inspect.unwrap(function) if callable(function) else function
        is_member = inspect.isfunction(function) or isinstance(function, property)
        is_public = not name.startswith("_") or name == "__call__"
        if is_member and is_public:
            yield Public(f"{found.name}.{name}", function, found.value)


def public() -> dict[str, Public]:
    """Return everything public once, by the first name under which it can be imported."""
    found: dict[int, Public] = {}
    for module in MODULES:
        for each in classes_and_functions(module):
            found.setdefault(id(each.value), each)
            if inspect.isclass(each.value):
                for member in members(each):
                    found.setdefault(id(member.value), member)
    return {each.name: each for each in found.values()}


PUBLIC = public()
EVERYTHING = pytest.mark.parametrize("found", PUBLIC.values(), ids=list(PUBLIC))


def docstring(found: Public) -> str:
    """Return the object's own docstring, not an inherited one."""
    return inspect.cleandoc(found.value.__doc__ or "")


def is_reference(found: Public) -> bool:
    """Return True for "See `Broker.publish`.", which refers to another public docstring."""
    reference = re.match(r"See `([A-Z]\w+\.\w+)`", docstring(found))
    assert reference is None or f"holdfast.{reference[1]}" in PUBLIC
    return reference is not None


def sections(found: Public) -> dict[str, str]:
    """Return the sections of a docstring, by title."""
    return dict(SECTION.findall(docstring(found) + "\n"))


def parameters(found: Public) -> list[str]:
    """Return the parameters of a function, or of the constructor of a class."""
    value = found.value
    if inspect.isclass(value) and (
        issubclass(value, (enum.Enum, tuple, BaseException))
        or getattr(value, "_is_protocol", False)
    ):
        return []
    if isinstance(value, property):
        return []
    given = inspect.signature(value).parameters.values()
    return [
        each.name
        for each in given
        if each.name not in {"self", "cls", "unknown"} and not each.name.startswith("_")
    ]


@EVERYTHING
def test_docstring_begins_with_one_sentence(found: Public) -> None:
    """The first line is one sentence under 100 columns, and a blank line follows."""
    first, *rest = docstring(found).split("\n")
    assert first, "no docstring"
    indent = 4 if found.owner is None else 8
    quotes = 6 if not rest else 3
    assert indent + quotes + len(first) <= MAX_COLUMNS
    assert first.endswith(".")
    assert re.search(r"[.?!]`? [A-Z]", first.replace("See `", "")) is None, "two sentences"
    assert not rest or rest[0] == ""


def entries(found: Public, *titles: str) -> Iterator[tuple[list[str], str]]:
    """Yield the names and the text of each entry of these sections."""
    for title in titles:
        text = sections(found).get(title, "").strip("\n")
        for entry in re.split(r"\n(?=    \S)", text) if text else []:
            names, _, content = " ".join(entry.split()).partition(": ")
            yield [name.lstrip("*") for name in names.split(", ")], content


@EVERYTHING
def test_parameters_stand_in_args(found: Public) -> None:
    """From three parameters on, the section Args (Attributes of a record) names each of them."""
    expected = parameters(found)
    named = {name for names, _ in entries(found, "Args", "Attributes") for name in names}
    if "options" in expected and "options" not in named:
        expected.remove("options")
        expected += PublishOptions.__annotations__
    if found.name in RESULTS:
        assert f"`{RESULTS[found.name]}`" in docstring(found)
    elif "Args" in sections(found) or (len(expected) >= MIN_PARAMETERS and not is_reference(found)):
        assert set(expected) <= named, "not in Args"
    if inspect.isfunction(found.value):
        assert named <= set(expected), "in Args, but not a parameter"


@EVERYTHING
def test_sections_have_whole_sentences(found: Public) -> None:
    """Each entry begins with a capital letter, a digit or code, and ends with a period."""
    texts = [content for _, content in entries(found, *LISTS)]
    texts += [
        " ".join(text.split()) for title, text in sections(found).items() if title not in LISTS
    ]
    for text in texts:
        assert re.match(r"[A-Z`0-9\"]", text), text
        assert text.endswith("."), text


@EVERYTHING
def test_coroutine_functions_describe_their_cancellation(found: Public) -> None:
    """A caller that is cancelled can look up what has happened."""
    value = found.value
    if not (inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)):
        return
    assert "Cancellation" in sections(found) or is_reference(found)


def test_public_classes_have_names_of_their_own() -> None:
    """No two public classes share a name, so that a name alone can be searched for."""
    by_name: dict[str, set[type]] = defaultdict(set)
    for found in PUBLIC.values():
        if inspect.isclass(found.value):
            by_name[found.value.__name__].add(found.value)
    assert {name: kinds for name, kinds in by_name.items() if len(kinds) > 1} == {}


@pytest.mark.parametrize(
    "package", ["core", "runtime", "asgi", "transports", "auth", "brokers", "client"]
)
def test_package_lists_its_modules(package: str) -> None:
    """The docstring of a package has one line per module, and no line for another."""
    folder = SOURCE / package
    listed = re.findall(
        r"^ *(\w+)  +\S", inspect.getdoc(import_module(f"holdfast.{package}")) or "", re.MULTILINE
    )
    present = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    present |= {path.parent.name for path in folder.glob("*/__init__.py")}
    assert sorted(listed) == sorted(present)
