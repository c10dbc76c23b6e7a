"""Topic names, patterns, and TopicIndex compared with a scan over all subscriptions."""

from __future__ import annotations

import gc
import re
import sys
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from holdfast.core.topics import (
    MAX_SEGMENTS,
    MAX_TOPIC_BYTES,
    TopicIndex,
    TopicTree,
    check_expression,
    check_topic,
    covering,
    is_pattern,
    matches,
)
from holdfast.errors import InvalidTopic

# Control, format, surrogate, private use; line, paragraph and space separators.
REFUSED_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"}

REFUSED = [
    "",
    " ",
    "a b",
    " a",
    "a ",
    "a\tb",
    "a\n",
    "a\r\nb",
    "\0",
    "a\0b",
    "a\x1bb",
    "a\x7fb",
    "a\x85b",
    "a,b",
    "$user",
    "$",
    "$a.b",
    ".",
    "a.",
    ".a",
    "a..b",
    "a\u00a0b",
    "a\u2003b",
    "a\u3000b",
    "a\u2028b",
    "a\u2029b",
    "a\u200bb",
    "a\u200db",
    "a\u2060b",
    "\ufeffa",
    "a\u00adb",
    "a\u202eb",
    "a\u2066b",
    "a\U000e0061b",
    "a\ue000b",
    "a\ud800b",
    "\udcff",
    ".".join("abcdefghi"),
    "x" * 201,
    "é" * 101,
    "x" * 10_240,
    "x." * 5_120 + "x",
    "\0" * 1_000_000,
    "\ud800" * 10_240,
]
REFUSED_PATTERNS = [
    "*x",
    "x*",
    "a.*x",
    "***",
    "a.***",
    "**.a",
    "a.**.b",
    "**.**",
    "*.**.*",
    "* ",
    "*,a",
    "*.",
    "$*",
    "*." * 8 + "*",
    "*" * 10_240,
]
ACCEPTED = [
    "a",
    "0",
    "orders",
    "orders.eu.7",
    "a-b_c:d/e",
    "a$",
    "a.$b",
    "prix.€",
    "数据.更新",
    "😀",
    "é",
    "e\u0301",
    "a{b}%00\\'\"",
    "+5",
    "#",
    ".".join("abcdefgh"),
    "x" * 200,
    "é" * 100,
]
PATTERNS = ["*", "**", "a.*", "*.a", "a.*.b", "a.**", "*.**", "*.*.*.*.*.*.*.**"]

segment = st.sampled_from("abc")
topics = st.lists(segment, min_size=1, max_size=4).map(".".join) | st.just("$user")
patterns = st.builds(
    lambda segments, tail: ".".join(segments + tail),
    st.lists(segment | st.just("*"), max_size=3),
    st.sampled_from([["*"], ["**"], ["a"]]),
)
expressions = topics | patterns
subscribers = st.integers(0, 4)


def passes(check: Callable[[str], str], name: str) -> bool:
    """True if the check returns the name and does not raise."""
    try:
        return check(name) == name
    except InvalidTopic:
        return False


def shown(text: str) -> str:
    """Return a short id for a case."""
    return ascii(text[:16])


@pytest.mark.parametrize("name", ACCEPTED, ids=shown)
def test_plain_name_is_a_topic(name: str) -> None:
    """A valid name can be published and subscribed to, and is returned unchanged."""
    assert check_topic(name) == check_expression(name) == name


@pytest.mark.parametrize("name", REFUSED, ids=shown)
def test_invalid_name_is_not_a_topic(name: str) -> None:
    """An invalid name can neither be published nor subscribed to."""
    for check in (check_topic, check_expression):
        with pytest.raises(InvalidTopic):
            check(name)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern_is_for_subscribers_only(pattern: str) -> None:
    """A pattern can be subscribed to, and not published to."""
    assert check_expression(pattern) == pattern
    assert is_pattern(pattern)
    with pytest.raises(InvalidTopic):
        check_topic(pattern)


@pytest.mark.parametrize("pattern", REFUSED_PATTERNS, ids=shown)
def test_misplaced_wildcard_is_refused(pattern: str) -> None:
    """A wildcard that is not a whole segment is refused, and `**` before the last segment."""
    for check in (check_topic, check_expression):
        with pytest.raises(InvalidTopic):
            check(pattern)


@pytest.mark.parametrize("value", [None, 5, 1.5, True, b"a", ["a"], {"a": 1}])
def test_topic_must_be_a_string(value: object) -> None:
    """Any other JSON type in the place of a topic is refused."""
    for check in (check_topic, check_expression):
        with pytest.raises(InvalidTopic):
            check(value)  # type: ignore[arg-type]


@given(st.text(st.characters() | st.sampled_from("*.$, \0\ud800\u202e\u2028"), max_size=220))
@example("\ud800" * 200)
@example("é" * 101)
def test_any_text_is_checked_without_surprise(name: str) -> None:
    """An accepted text is short and encodable, and a refusal is one short plain line."""
    if passes(check_expression, name):
        assert 0 < len(name.encode()) <= MAX_TOPIC_BYTES
        assert len(name.split(".")) <= MAX_SEGMENTS
        assert not name.startswith("$")
        assert not any(unicodedata.category(each) in REFUSED_CATEGORIES for each in name)
        return
    with pytest.raises(InvalidTopic) as refusal:
        check_expression(name)
    assert str(refusal.value).isascii()
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 600


@given(st.lists(st.sampled_from(["a", "é", ".", "*", "**", "$", ","])).map("".join))
def test_topics_are_the_expressions_without_wildcard(name: str) -> None:
    """The topics are exactly the valid expressions without a wildcard."""
    assert passes(check_topic, name) is (passes(check_expression, name) and "*" not in name)


def test_every_character_is_judged_alone() -> None:
    """A control, format, private, surrogate, space or separator character is refused anywhere."""
    for char in map(chr, range(0x3000)):
        plain = unicodedata.category(char) not in REFUSED_CATEGORIES and char not in ",*"
        assert passes(check_topic, f"a{char}b") is plain


def test_names_are_compared_byte_by_byte() -> None:
    """Case and normalisation are significant."""
    index: TopicIndex[str] = TopicIndex()
    for name in ("é", "e\u0301", "É", "K", "\u212a", "k"):
        index.add(name, ascii(name))
        assert not matches(name, name.swapcase())
    for name in ("é", "e\u0301", "É", "K", "\u212a", "k"):
        assert list(index.match(name)) == [ascii(name)]


@given(expressions, topics)
@example("a.**", "a")
@example("**", "$user")
@example("*", "$user")
@example("$user", "$user")
def test_matching_is_what_the_grammar_says(expression: str, topic: str) -> None:
    """`*` matches one segment, `**` one or more, and no wildcard matches a `$` name."""
    grammar = {"*": r"[^.]+", "**": r".+"}
    wanted = r"\.".join(grammar.get(each, re.escape(each)) for each in expression.split("."))
    reserved = topic.startswith("$") and is_pattern(expression)
    assert matches(expression, topic) is (re.fullmatch(wanted, topic) is not None and not reserved)


@given(st.lists(expressions), topics)
def test_covering_is_a_scan_in_order(held: list[str], topic: str) -> None:
    """`covering` yields the expressions that match the topic, in their order."""
    assert list(covering(held, topic)) == [each for each in held if matches(each, topic)]


class TopicIndexMachine(RuleBasedStateMachine):
    """Subscribe and unsubscribe in any order; compare with a plain set of pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.index: TopicIndex[int] = TopicIndex()
        self.held: set[tuple[str, int]] = set()

    @rule(expression=expressions, subscriber=subscribers)
    def add(self, expression: str, subscriber: int) -> None:
        """Add a subscription, which may exist already."""
        self.index.add(expression, subscriber)
        self.held.add((expression, subscriber))

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Remove one of the subscriptions that exist."""
        if self.held:
            pair = data.draw(st.sampled_from(sorted(self.held)))
            self.index.remove(*pair)
            self.held.remove(pair)

    @rule(expression=expressions, subscriber=subscribers)
    def remove_any(self, expression: str, subscriber: int) -> None:
        """Remove a subscription, which may not exist."""
        self.index.remove(expression, subscriber)
        self.held.discard((expression, subscriber))

    @rule(topic=topics)
    def match(self, topic: str) -> None:
        """`match` returns exactly the subscribers with a matching expression, each once."""
        found = list(self.index.match(topic))
        assert len(found) == len(set(found))
        assert set(found) == {who for expression, who in self.held if matches(expression, topic)}

    @invariant()
    def is_empty_when_nothing_is_held(self) -> None:
        """The index is false exactly when there is no subscription."""
        assert bool(self.index) is bool(self.held)

    def teardown(self) -> None:
        """After every subscription was removed, the index is empty."""
        for pair in self.held:
            assert self.index
            self.index.remove(*pair)
        assert not self.index


TestTopicIndex = TopicIndexMachine.TestCase


def calls(index: TopicIndex[int], topic: str) -> int:
    """Return the number of Python and C calls of one match, as its cost without a clock."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event.endswith("call")

    gc.disable()  # a collection calls gc.callbacks, and Hypothesis has one
    sys.setprofile(note)
    try:
        for _ in index.match(topic):
            pass
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


@pytest.mark.parametrize("topic", ["a", "a.b.c", "nobody.is.here"])
def test_matching_does_not_look_at_other_topics(topic: str) -> None:
    """Ten thousand other topics and patterns add no step to a match."""
    index: TopicIndex[int] = TopicIndex()
    for subscriber, expression in enumerate(("a", "a.b.c", "a.*.c", "a.**", "x.*")):
        index.add(expression, subscriber)
    alone = calls(index, topic)
    for number in range(10_000):
        index.add(f"other{number}.b.c", number)
        index.add(f"other{number}.*.c", number)
        index.add(f"a.other{number}.*", number)
    assert calls(index, topic) == alone


def test_matching_the_worst_patterns_is_bounded() -> None:
    """All patterns that can match a topic of eight segments are a bounded walk."""
    index: TopicIndex[int] = TopicIndex()
    topic = ".".join("aaaaaaaa")
    for number in range(2**MAX_SEGMENTS):
        bits = f"{number:08b}".replace("0", "a").replace("1", "*")
        index.add(".".join(bits), number)
    assert len(index.match(topic)) == 2**MAX_SEGMENTS
    assert calls(index, topic) < 8 * 2**MAX_SEGMENTS


def test_subscriber_of_several_expressions_is_matched_once() -> None:
    """A subscriber with several matching expressions is returned once."""
    index: TopicIndex[str] = TopicIndex()
    for expression in ("a.b", "a.*", "**"):
        index.add(expression, "who")
    assert list(index.match("a.b")) == ["who"]
    index.remove("a.*", "who")
    assert list(index.match("a.b")) == ["who"]


@given(st.lists(st.tuples(st.sampled_from([True, True, False]), topics), max_size=30), patterns)
def test_a_tree_of_topics_finds_what_a_pattern_covers(
    steps: list[tuple[bool, str]], pattern: str
) -> None:
    """`TopicTree.match` yields the topics for which `matches` is true, also after removals."""
    tree, held = TopicTree(), set[str]()
    for add, topic in steps:
        if add:
            tree.add(topic)
            held.add(topic)
        elif topic in held:
            tree.remove(topic)
            held.remove(topic)
    for each in filter(is_pattern, (pattern, "*", "**", "a.*", "a.**", "*.a", "*.**", "a.b.**")):
        found = list(tree.match(each))
        assert sorted(found) == sorted(topic for topic in held if matches(each, topic))
    for topic in held:
        tree.remove(topic)
    assert list(tree.match("**")) == []
