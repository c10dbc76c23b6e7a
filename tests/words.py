"""Check the prose of the project: ``python -m tests.words [paths]`` prints each bad sentence.

The rules that a program can see, with few false alarms. A sentence has a named subject, so some
words never begin one, except in a question. Some phrases have a plainer form, and the rule names
it. Headings, table headers, code and quoted words are names, and pass.

Checked are comments, docstrings, log messages and texts of exceptions in Python; comments in Lua,
JavaScript and TypeScript; comments of shell, TOML and YAML; prose, and code blocks, in Markdown.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT = Path(__file__).parents[1]
PLACES = tuple(
    "src tests examples docs .github .ci README.md CHANGELOG.md pyproject.toml"
    " .pre-commit-config.yaml".split()
)

# (path, part of the sentence): at most ten, each because the sentence quotes someone else.
EXCEPTIONS: tuple[tuple[str, str], ...] = ()
MAX_EXCEPTIONS = 10

STARTS = re.compile(
    r"(?:What|Who|Whom|Whose|Whatever|Whichever|Whether|Where|Wherever|How|However much"
    r"|Those|That|It|So|As|Of|Nothing)\b"
    r"|With\b[^.]*?,\s",
    re.IGNORECASE,
)
NOT_STARTS = re.compile(r"As(?: in|:)? CODE|It\.|So(?:,| far)", re.IGNORECASE)

_IS_NO = (
    r"(?<!\bthere )\b(?:is|are|was|were) no"
    r" (?!longer\b|more\b|less\b|such\b|one\b|\w+er\b)\w+"
)
# (phrase, its plainer form)
PHRASES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), plain)
    for pattern, plain in (
        (r"\bat the (?:most|least)\b(?! (?:recent|common|important|urgent))", "at most, at least"),
        (r"^(?!.*\bnot (?:only )?for\b).*\b(but for)\b", "except, without"),
        (_IS_NO, '"is not a ...", "has no ..."'),
        (r"\bno more than that\b", "only that, at most"),
        (r"\b(?:so|that) many\b(?! that\b)", "as many as, a number of"),
        (r"\b(?:whoever|whomever)\b", "a named subject"),
        (r"\bnobody\b", "no client, no task, no user ..."),
        (r"(?<!\bas )\bof (?:now|then)\b", "current, former"),
        (
            r"\b(?:is|are|was|were|be|been|being|gets?|not) told\b|\btold (?:of|about|what|that)\b",
            "is reported, is notified",
        ),
        (r"\b(?:bury|buries|buried)\b", "hides, replaces"),
        (r"\bforg[eo]t(?:s|ten|ting)?\b", "removes, drops, expires"),
        (r"\bknows\b", "has, contains, reads"),
        (r"\b(?:he|she|his|him|himself|herself|her|hers)\b", "they, their, them"),
        (
            r"[,;:] for (?:they|there|he|she|we|otherwise|it (?:is|has|was|may|can|will|does))\b",
            "because",
        ),
        (r"\b(?:thereof|therein|whereof|wherein|hereof)\b", "of it, in it"),
    )
)


class Text(NamedTuple):
    """One piece of prose: pairs of line number and text, in the order of reading."""

    lines: tuple[tuple[int, str], ...]
    is_name: bool = False
    """A heading or the header of a table: words may begin it that begin no sentence."""


class Finding(NamedTuple):
    """One sentence that breaks a rule."""

    path: str
    line: int
    rule: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.sentence}"


# --- Sentences -----------------------------------------------------------------------------------

_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
_QUOTED = re.compile(r"(?<![\w\"])\"[^\"]{1,80}\"|“[^”]{1,80}”|(?<!\w)'[^'\s][^']{0,60}'(?!\w)")
_LINK = re.compile(r"!?\[([^\[\]]*)\](?:\([^()\s]*(?:\([^()]*\)[^()\s]*)?\)|\[[^\]]*\])")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|sec|no)\.$", re.IGNORECASE)
_BREAK = re.compile(r"(?<=[.!?])[)\]*_]*\s+(?=[(\[*_]*[A-Z\"“])|:\s+(?=[A-Z])")
_LEADING = re.compile(r"^[\s(\[*_~>]+")


def sentences(text: Text) -> Iterator[tuple[int, str]]:
    """Yield the first line and the words of each sentence; code is CODE, a quotation QUOTED."""
    whole, starts = "", []
    for line, part in text.lines:
        starts.append((len(whole), line))
        whole += part.strip() + " "
    # Each replacement keeps the length, so that an offset still leads to its line.
    whole = _CODE.sub(lambda found: "CODE".ljust(len(found[0]), "_"), whole)
    whole = _QUOTED.sub(lambda found: "QUOTED".ljust(len(found[0]), "_"), whole)
    whole = _LINK.sub(lambda found: found[1].ljust(len(found[0]), "\0"), whole)
    begin = 0
    for end in [*(found.end() for found in _BREAK.finditer(whole)), len(whole)]:
        part = whole[begin:end]
        if _ABBREVIATION.search(part.rstrip()):
            continue
        line = next(line for offset, line in reversed(starts) if offset <= begin)
        words = re.sub(r"(CODE|QUOTED)_+", r"\1", part.replace("\0", ""))
        yield line, _LEADING.sub("", " ".join(words.split()))
        begin = end


def problems(text: Text) -> Iterator[tuple[int, str, str]]:
    """Yield line, rule and sentence of each rule that is broken."""
    for line, sentence in sentences(text):
        start = STARTS.match(sentence)
        question = sentence.rstrip("*_) ").endswith("?")
        if start and not text.is_name and not question and not NOT_STARTS.match(sentence):
            yield line, f'begins with "{start[0].split()[0]}"', sentence
        for pattern, plain in PHRASES:
            if found := pattern.search(sentence):
                phrase = found[found.lastindex or 0].strip(",;: ")
                yield line, f'"{phrase}" (plainer: {plain})', sentence


# --- Where prose stands --------------------------------------------------------------------------

_PRAGMA = re.compile(
    r"\s*(?:noqa|type:|pyright:|pragma|fmt:|ruff:|nosec|@ts-|eslint|!/|luacheck).*"
)
_ITEM = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+")


def paragraphs(lines: Iterable[tuple[int, str]]) -> Iterator[Text]:
    """Split prose at blank lines, list items and examples; drop the examples."""
    held: list[tuple[int, str]] = []
    example: int | None = None
    fenced = False
    for line, raw in lines:
        content = raw.strip()
        indent = len(raw) - len(raw.lstrip())
        if content.startswith("```"):
            fenced = not fenced
        if fenced or content.startswith(("```", ">>>", "...")):
            continue
        if example is not None and content:
            if indent > example:
                continue
            example = None
        if not content or _ITEM.match(raw) or _is_section(held, content):
            if held:
                yield Text(tuple(held))
            held = []
        if content:
            item = _ITEM.match(raw)
            held.append((line, raw[item.end() :] if item else raw))
        if content.endswith("::"):
            example = indent
    if held:
        yield Text(tuple(held))


def _is_section(held: Sequence[tuple[int, str]], content: str) -> bool:
    """An ``Args:`` line, or what follows one, begins a paragraph of its own."""
    if re.fullmatch(r"[A-Z]\w+:", content):
        return True
    return bool(held) and bool(
        re.fullmatch(r"\s*[A-Z]\w+:", held[-1][1]) or re.match(r"[a-z_*]\w*: [A-Z]", content)
    )


_LOGGING = frozenset("debug info warning error exception critical log".split())


def python(source: str, first: int = 1) -> Iterator[Text]:
    """Yield comments, docstrings, texts of exceptions and log messages of Python code."""
    yield from _python_comments(source, first)
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return  # a fragment in a document
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text)) as constant):
                lines = text.splitlines()
                yield from paragraphs(
                    (constant.lineno + first - 1 + number, line)
                    for number, line in enumerate(lines)
                )
            case ast.Raise(exc=ast.Call(args=[argument, *_])):
                yield from _literal(argument, first)
            case ast.Call(func=ast.Attribute(attr=name), args=arguments) if name in _LOGGING:
                for argument in arguments[: 1 + (name == "log")]:
                    yield from _literal(argument, first)
            case _:
                pass


def _literal(node: ast.expr, first: int) -> Iterator[Text]:
    match node:
        case ast.Constant(value=str(text)):
            yield Text(((node.lineno + first - 1, text),))
        case ast.JoinedStr(values=values):
            parts = (
                str(part.value) if isinstance(part, ast.Constant) else "CODE" for part in values
            )
            yield Text(((node.lineno + first - 1, "".join(parts)),))
        case _:
            pass


def _python_comments(source: str, first: int) -> Iterator[Text]:
    found: list[tuple[int, str, bool]] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                alone = not token.line[: token.start[1]].strip()
                found.append((token.start[0] + first - 1, token.string, alone))
    except (tokenize.TokenError, IndentationError):
        pass
    yield from _comments(found, "#")


def _comments(found: Iterable[tuple[int, str, bool]], marks: str) -> Iterator[Text]:
    """Join the comments that stand alone on lines that follow each other."""
    held: list[tuple[int, str]] = []
    joins = False
    for line, raw, alone in found:
        content = _PRAGMA.sub("", raw.lstrip(marks + "!"))
        if not (joins and alone and held and line == held[-1][0] + 1):
            yield from paragraphs(held)
            held = []
        held.append((line, content))
        joins = alone
    yield from paragraphs(held)


def hashes(source: str) -> Iterator[Text]:
    """Yield the comments of shell, TOML and YAML."""
    found = []
    for line, content in enumerate(source.splitlines(), 1):
        if match := re.match(r"(\s*)#(?!!)(.*)|(.*?\s)# (.*)", content):
            text, alone = (match[2], True) if match[2] is not None else (match[4], False)
            if alone or not re.search(r"['\"].*['\"]", text):
                found.append((line, text, alone))
    yield from _comments(found, "#")


_SCRIPT = re.compile(
    r"(?P<line>//[^\n]*)|(?P<block>/\*.*?\*/)"
    r"|(?P<text>\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)"
    r"|(?P<regex>(?<=[(,=:\[!&|?{};\n])\s*/(?![/*])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n])+/)",
    re.DOTALL,
)
_LUA = re.compile(
    r"(?P<block>--\[(?P<equals>=*)\[.*?\](?P=equals)\])|(?P<line>--[^\n]*)"
    r"|(?P<text>\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|\[\[.*?\]\])",
    re.DOTALL,
)


def script(source: str, first: int = 1, *, pattern: re.Pattern[str] = _SCRIPT) -> Iterator[Text]:
    """Yield the comments of JavaScript and TypeScript, or of Lua with its pattern."""
    if re.search(r"@generated|\b(?:generated|built) (?:from|by)\b", source[:400], re.IGNORECASE):
        return
    found = []
    for match in pattern.finditer(source):
        line = source.count("\n", 0, match.start()) + first
        if match["line"]:
            before = source[source.rfind("\n", 0, match.start()) + 1 : match.start()]
            found.append((line, match["line"], not before.strip()))
        elif match["block"]:
            inner = re.sub(r"^/\*+|\*+/$|^--\[=*\[|\]=*\]$", "", match["block"])
            stripped = re.sub(r"(?m)^\s*\*(?: |$)", "", inner).splitlines()
            # A tag of a documentation comment begins a paragraph; its name is not part of it.
            cleaned = []
            for number, content in enumerate(stripped):
                if tag := re.match(r"\s*@\w+(?: \{[^}]*\})?(?: [\w.\[\]]+ -)?", content):
                    cleaned += [(line + number, ""), (line + number, content[tag.end() :])]
                else:
                    cleaned.append((line + number, content))
            yield from paragraphs(cleaned)
    yield from _comments(found, "/-")


_HTML_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*(\w*)")


def markdown(source: str) -> Iterator[Text]:
    """Yield headings, paragraphs, list items and cells of a document, and prose in its code."""
    source = re.sub(
        r"<!--.*?-->", lambda found: "\n" * found[0].count("\n"), source, flags=re.DOTALL
    )
    held: list[tuple[int, str]] = []
    code: list[str] = []
    fence, language, begin, rows = "", "", 0, 0

    def flush() -> Iterator[Text]:
        nonlocal held
        only_link = len(held) == 1 and re.fullmatch(r"\[[^\]]*\]\([^)]*\)", held[0][1].strip())
        if held:
            yield Text(tuple(held), is_name=bool(only_link))
        held = []

    for line, raw in enumerate(source.splitlines(), 1):
        mark = _FENCE.match(raw)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2]:
                yield from _code_block(language, "\n".join(code), begin)
                fence = ""
            else:
                code.append(raw)
            continue
        content = raw.strip()
        is_row = content.startswith("|")
        rows = rows + 1 if is_row else 0
        item = _ITEM.match(raw)
        if mark or is_row or item or not content or content.startswith(("#", "<")):
            yield from flush()
        if mark:
            fence, language, begin, code = mark[1], mark[2], line + 1, []
        elif is_row:
            cells = re.split(r"(?<!\\)\|", content.strip("|"))
            if not re.fullmatch(r"[\s|:-]*", content):
                for cell in cells:
                    # A cell that begins small is a phrase, not a sentence.
                    phrase = not cell.strip(" *_([")[:1].isupper()
                    yield Text(((line, cell),), is_name=rows == 1 or phrase)
        elif content.startswith("#"):
            yield Text(((line, content.lstrip("# ")),), is_name=True)
        elif content and not content.startswith("<"):
            held.append((line, (raw[item.end() :] if item else raw).lstrip("> ")))
    yield from flush()


def _code_block(language: str, code: str, first: int) -> Iterator[Text]:
    if language in {"python", "py"}:
        yield from python(code, first)
    elif language in {"js", "ts", "jsx", "tsx", "javascript", "typescript"}:
        yield from script(code, first)


# --- The whole tree ------------------------------------------------------------------------------


def texts(path: Path) -> Iterator[Text]:
    """Yield the prose of one file, by its suffix; a file of another kind has none."""
    readers = {
        **dict.fromkeys((".py", ".pyi"), python),
        **dict.fromkeys((".js", ".mjs", ".ts", ".mts", ".jsx", ".tsx"), script),
        ".lua": lambda source: script(source, pattern=_LUA),
        ".md": markdown,
        **dict.fromkeys((".toml", ".yml", ".yaml", ".sh"), hashes),
    }
    reader = hashes if path.parent.name == ".ci" and not path.suffix else readers.get(path.suffix)
    if reader:
        yield from reader(path.read_text("utf-8"))


def check(path: Path) -> list[Finding]:
    """Return the bad sentences of one file, without the exceptions."""
    absolute = path.resolve()
    name = absolute.relative_to(ROOT).as_posix() if absolute.is_relative_to(ROOT) else str(path)
    found = {
        Finding(name, line, rule, sentence)
        for text in texts(path)
        for line, rule, sentence in problems(text)
        if not any(name == where and part in sentence for where, part in EXCEPTIONS)
    }
    return sorted(found, key=lambda finding: (finding.line, finding.rule))


def files(places: Iterable[Path]) -> Iterator[Path]:
    """Yield the files that have prose, in folders and by name; build output is passed over."""
    skipped = {"node_modules", "__pycache__", "dist", "build"}
    for place in places:
        if place.is_dir():
            for path in sorted(place.rglob("*")):
                if path.is_file() and not skipped & set(path.parts):
                    yield path
        elif place.exists():
            yield place


def main(arguments: Sequence[str]) -> int:
    """Print each finding, and their number; return 1 if there is one."""
    places = [Path(each) for each in arguments] or [ROOT / each for each in PLACES]
    found = [finding for path in files(places) for finding in check(path)]
    print(*found, sep="\n")
    print(f"{len(found)} sentences break a rule", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
