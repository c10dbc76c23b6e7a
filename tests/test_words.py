"""The check of the prose finds each bad sentence that is seeded, and passes good ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import words

if TYPE_CHECKING:
    from pathlib import Path

BAD = [
    ("What is held is bounded.", 'begins with "What"'),
    ("Who comes back gets a gap.", 'begins with "Who"'),
    ("Whoever comes back gets a gap.", '"Whoever"'),
    ("Whether the topic is held.", 'begins with "Whether"'),
    ("Whatever raises is logged.", 'begins with "Whatever"'),
    ("Those of this topic.", 'begins with "Those"'),
    ("Nobody reads this.", '"Nobody"'),
    ("Nothing of it remains.", 'begins with "Nothing"'),
    ("How many messages are held.", 'begins with "How"'),
    ("Where Redis is missing, the test is skipped.", 'begins with "Where"'),
    ("Of each lane the newest is kept.", 'begins with "Of"'),
    ("So a lone publish waits.", 'begins with "So"'),
    ("As a page does.", 'begins with "As"'),
    ("It reads the log.", 'begins with "It"'),
    ("That is a loop.", 'begins with "That"'),
    ("With a window, the last id is posted.", 'begins with "With"'),
    ("A queue. What is in it waits.", 'begins with "What"'),
    ("**What** is in it waits.", 'begins with "What"'),
    ("Read it (first). What follows is newer.", 'begins with "What"'),
    ("A page holds ten at the most.", '"at the most"'),
    ("All edges but for one are thin.", '"but for"'),
    ("A name that is no topic raises.", '"is no topic"'),
    ("Two of them are no names.", '"are no names"'),
    ("The page has ten and no more than that.", '"no more than that"'),
    ("Wait for so many seconds.", '"so many"'),
    ("The connection is closed for whoever reads.", '"whoever"'),
    ("The queue grows and nobody reads it.", '"nobody"'),
    ("The state of now is kept.", '"of now"'),
    ("A client is told its token.", '"is told"'),
    ("Clients are told the reason.", '"are told"'),
    ("The task, told of the loss, ends.", '"told of"'),
    ("A new message buries the old one.", '"buries"'),
    ("The registry forgets the token.", '"forgets"'),
    ("The node knows the topic.", '"knows"'),
    ("The user loses his session.", '"his"'),
    ("The socket closes, for it is idle.", '"for it is"'),
]

GOOD = [
    "",
    "The history holds what is bounded.",
    "Return True if the topic is held.",
    "What happens when the link is cut? The client reconnects.",
    "As `PriorityBuffer`: the oldest message is evicted.",
    "At most ten messages are held, e.g. What, Who and Of.",
    "A client that reads slowly is not closed.",
    "There is no topic of that name.",
    "The token is no longer accepted, and the lane is no better than before.",
    "The gap has no count.",
    'The old text began with "What is held".',
    "The word `nobody` is a user id here.",
    "A message not for Ada but for Bob waits.",
    "Pages of at the most recent offset.",
    "A snapshot as of now is taken.",
    "There are so many that the page is split.",
    "Without a window, the connection waits.",
    "Who, what and where are questions? Yes.",
    "The island is nowhere; its theory is heroic.",
    "Sow it, soften it, and ask Ofelia.",
]

SOURCES = {
    "a.py": [
        '"""What is held."""',
        "x = 1  # what is held",
        "# The queue is\n# full. What is in it waits.",
        "class A:\n    x: int\n    '''Whether it is held.'''",
        'def f():\n    """Return it.\n\n    Args:\n        name: What is held.\n    """',
        'def f():\n    """Return it.\n\n    - first\n    - what is held\n    """',
        'raise ValueError("what is held")',
        'raise ValueError(f"{name!r} is no topic")',
        'logger.warning("nobody read %s", name)',
        'self._log.exception(f"what came of {it} is lost")',
    ],
    "a.lua": [
        "local x = 1 -- what is held",
        "-- The queue is\n-- full. What is in it waits.",
        "--[[ What is held ]]",
        "--[==[\n  What is held\n]==]",
    ],
    "a.ts": [
        "// what is held",
        "/* What is held */",
        "/**\n * The queue.\n *\n * What is in it waits.\n */",
        "/** @param {string} name - What is held */",
        'const a = "http://x/"; // what is held',
        "const a = b.replace(/['\"]/g, ''); // what is held",
        "const a = `//${b}`; // what is held",
    ],
    "a.md": [
        "What is held.",
        "The queue is\nfull. What is in it waits.",
        "- What is held.",
        "1. What is held.",
        "> What is held.",
        "| a | b |\n| - | - |\n| x | What is held. |",
        "## A\n\nA [link](a.md#b). What is in it waits.",
        "```python\nx = 1  # what is held\n```",
        "```js\nf(); // what is held\n```",
    ],
    "a.toml": ["# what is held", "a = 1 # what is held", "# The queue is\n# full. What is it."],
}

CLEAN = {
    "a.py": [
        'x = "What is held."\nf("nobody")',
        "# noqa: what\nx = 1  # type: ignore[what]",
        'def f():\n    """Return it::\n\n        What is held.\n\n    The end.\n    """',
        'def f():\n    """Return it.\n\n    >>> nobody\n    """',
    ],
    "a.lua": ['local x = "-- what is held"', "local x = [[ -- what is held ]]"],
    "a.ts": [
        'const a = "// what is held";',
        "const a = `\n// what is held\n`;",
        "const a = /[/]/.test('// what is held');",
        "// Generated from client.ts\n// what is held",
        "// holdfast: built from client.ts\n// what is held",
    ],
    "a.md": [
        "# What is held",
        "- [How it is made](#how-it-is-made)",
        "| What | Who |\n| - | - |\n| what is sent | x |",
        "<!-- what is held -->",
        "```text\nWhat is held. Nobody knows.\n```",
        "`what` is a field.",
    ],
    "a.toml": ['a = "# what is held"'],
    "a.png": ["What is held"],
}


def found(path: Path, content: str) -> list[words.Finding]:
    """Write a file and check it."""
    path.write_text(content, "utf-8")
    return words.check(path)


@pytest.mark.parametrize(("sentence", "rule"), BAD)
def test_bad_sentence_is_found(sentence: str, rule: str, tmp_path: Path) -> None:
    """Each rule finds the sentence that breaks it, and only that rule does."""
    findings = found(tmp_path / "a.md", sentence)
    assert findings
    assert {finding.rule.split(" (")[0] for finding in findings} == {rule}


@pytest.mark.parametrize("sentence", GOOD)
def test_good_sentence_passes(sentence: str, tmp_path: Path) -> None:
    """Sentences that look like a broken rule and are none pass."""
    assert found(tmp_path / "a.md", sentence) == []


@pytest.mark.parametrize(
    ("name", "source"), [(name, source) for name, each in SOURCES.items() for source in each]
)
def test_prose_is_found_in_each_kind_of_file(name: str, source: str, tmp_path: Path) -> None:
    """A bad sentence is found once wherever prose stands in a file."""
    assert len(found(tmp_path / name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"), [(name, source) for name, each in CLEAN.items() for source in each]
)
def test_code_and_names_pass(name: str, source: str, tmp_path: Path) -> None:
    """Code, strings, headings, quoted words and generated files are not prose."""
    assert found(tmp_path / name, source) == []


def test_finding_has_the_line_of_its_sentence(tmp_path: Path) -> None:
    """The line is that of the sentence's beginning, also in the middle of a paragraph."""
    source = '"""One line.\n\nThe first\nsentence. What\nfollows is bad.\n"""\n'
    assert [finding.line for finding in found(tmp_path / "a.py", source)] == [4]


def test_program_prints_findings_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program walks folders, prints one line per sentence, and returns 1 if there is one."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.md").write_text("What is held.\n", "utf-8")
    assert words.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.endswith('deep/a.md:1: begins with "What": What is held.\n')
    assert words.main([str(tmp_path / "missing")]) == 0


def test_exceptions_are_few_and_used() -> None:
    """Each exception names a file and a sentence that is still in it."""
    assert len(words.EXCEPTIONS) <= words.MAX_EXCEPTIONS
    for path, part in words.EXCEPTIONS:
        assert part in (words.ROOT / path).read_text("utf-8")


@pytest.mark.parametrize("place", words.PLACES)
def test_prose_follows_the_rules(place: str) -> None:
    """No sentence of the project breaks a rule: `python -m tests.words` lists the places."""
    paths = words.files([words.ROOT / place])
    assert [str(finding) for path in paths for finding in words.check(path)] == []
