"""The documents have no broken link, complete contents, and the figures of the code."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import pytest

from holdfast import Broadcaster, Retention, TokenLimits

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", ".github/*.md", "docs/*.md", "examples/**/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^(`{3,}).*?^\1$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CONTENTS = re.compile(r"^(?:-|\d+\.) \[([^\]]+)\]\(#([^)]+)\)", re.MULTILINE)


def name(path: Path) -> str:
    """Return the path below the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """Return the text of a document without its code blocks."""
    return FENCE.sub("", path.read_text("utf-8"))


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def headings(text: str, level: int = 0) -> list[str]:
    """Return the headings of one level, or of all levels."""
    return [found[2] for found in HEADING.finditer(text) if level in (0, len(found[1]))]


def broken_links(path: Path) -> list[str]:
    """Return the relative links whose file or heading does not exist."""
    broken = []
    for link in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, fragment = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        anchors = map(anchor, headings(prose(target))) if fragment and target.is_file() else ()
        if not target.exists() or (fragment and fragment not in anchors):
            broken.append(link)
    return broken


def contents(text: str) -> list[tuple[str, str]]:
    """Return the title and the anchor of each line of the contents; empty if there are none."""
    return CONTENTS.findall(text.partition("\n## ")[0])


def sections(text: str) -> list[tuple[str, str]]:
    """Return the title, without its number, and the anchor of each section."""
    return [
        (re.sub(r"^\d+\. ", "", section), anchor(section)) for section in headings(text, level=2)
    ]


def missing_files(text: str) -> list[str]:
    """Return the paths that a document names and that do not exist."""
    paths = re.findall(r"`((?:tests|docs|src|examples)/[\w./]+)`", text)
    missing = [each for each in paths if not (ROOT / each).exists()]
    # Without the folder in front, a path is below src/holdfast.
    rings = "core|brokers|runtime|transports|asgi|auth|client|browser"
    modules = re.findall(rf"`((?:{rings})/[\w/]+\.\w+)`", text)
    missing += [each for each in modules if not (ROOT / "src" / "holdfast" / each).exists()]
    known = {each.name for each in (ROOT / "tests").rglob("*.py")}
    return missing + [each for each in re.findall(r"`(test_\w+\.py)`", text) if each not in known]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_each_relative_link_leads_somewhere(path: Path) -> None:
    """The file of each link exists, and so does the heading that its anchor names."""
    assert broken_links(path) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_the_contents_list_each_section(path: Path) -> None:
    """A document that begins with contents lists all its sections there, in their order."""
    text = prose(path)
    if listed := contents(text):
        assert listed == sections(text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_each_file_that_is_named_exists(path: Path) -> None:
    """Each path that a document names exists, and so does a test file that is named alone."""
    assert missing_files(prose(path)) == []


PAGE = """# Page

- [Two words](#two-words)
- [`code`, and (more)](#code-and-more)

## Two words

[a](#two-words) [b](other.md#part) [c](https://example.org/#x) `tests/conftest.py`

```text
[d](missing.md) ## no heading
```

## `code`, and (more)

### Part
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(#two-words)", "(#two-word)"),
        ("other.md", "missing.md"),
        ("#part", "#parts"),
        ("- [Two words](#two-words)\n", ""),
        ("## Two words", "## Two words\n\n## Three words"),
        ("## Two words", "## Two birds"),
        ("[Two words]", "[Two birds]"),
        ("tests/conftest.py", "tests/conftests.py"),
        ("tests/conftest.py", "test_missing.py"),
        ("tests/conftest.py", "core/missing.py"),
    ],
)
def test_seeded_fault_is_found(old: str, new: str, tmp_path: Path) -> None:
    """A broken link, incomplete contents and a missing file are found; a good page passes."""
    (tmp_path / "other.md").write_text("# Other\n\n## Part\n", "utf-8")
    page = tmp_path / "page.md"

    def faults(text: str) -> list[object]:
        page.write_text(text, "utf-8")
        found: list[object] = [*broken_links(page), *missing_files(prose(page))]
        listed, existing = contents(prose(page)), sections(prose(page))
        return found if listed == existing else [*found, listed]

    assert faults(PAGE) == []
    assert old in PAGE
    assert faults(PAGE.replace(old, new, 1)) != []


def documented_options() -> dict[str, object]:
    """Return the defaults in the guide's table of options: numbers in bytes, seconds or items."""
    text = (ROOT / "docs" / "guide.md").read_text("utf-8")
    section = text.partition("\n### Options\n")[2].partition("\n### ")[0]
    found: dict[str, object] = {}
    for name, default in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.MULTILINE):
        number = re.match(r"([\d,]+)( MiB)?", default)
        if number:
            found[name] = int(number[1].replace(",", "")) * (2**20 if number[2] else 1)
        else:
            found[name] = {"`None`: off": None, "`True`": True}.get(default, default)
    return found


def test_the_guide_lists_each_option_with_its_default() -> None:
    """The table has every keyword argument of Broadcaster, with the default of the code."""
    retention, tokens = Retention(), TokenLimits()
    elsewhere = {
        "history_limit": retention.limit,
        "history_age": retention.age,
        "history_bytes": retention.max_bytes,
        "token_lifetime": tokens.lifetime,
        "token_grace": tokens.grace,
    }
    defaults = {
        name: elsewhere.get(name, parameter.default)
        for name, parameter in inspect.signature(Broadcaster).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    documented = documented_options()
    assert set(documented) == set(defaults)
    described = {"broker", "audit", "presence", "clock"}  # in words, and not as a number
    assert {name: documented[name] for name in documented if name not in described} == {
        name: defaults[name] for name in defaults if name not in described
    }


def test_the_dependencies_are_as_the_readme_says() -> None:
    """README.md names every package that `pip install holdfast` installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = [re.match(r"[\w-]+", each) for each in project["dependencies"]]
    listed = " and ".join(f"`{name[0]}`" for name in names if name)
    assert f"{listed} are the only dependencies" in (ROOT / "README.md").read_text("utf-8")
