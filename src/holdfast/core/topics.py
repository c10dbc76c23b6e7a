"""Topic names, patterns, and the index that finds who may have a message.

A topic is 1 to 200 bytes of UTF-8, compared byte by byte: no case folding, no normalisation. It
is made of segments parted by dots. In a pattern, `*` stands for exactly one segment and a last
`**` for one or more. Names that begin with `$` belong to the library.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Generic, TypeVar

from ..errors import InvalidTopic

MAX_TOPIC_BYTES = 200
"""NATS advises fewer than 256; the name is in every frame."""

MAX_SEGMENTS = 8
"""Bounds the walk of the pattern trie: at most two nodes follow each, so 256 at the last."""

USER_TOPIC = "$user"
"""The personal topic that every identified user is subscribed to (`publish_to_user`)."""

# Control, format (bidi, zero width), surrogate, private use; line, paragraph and space separators.
# Not "unassigned" (Cn): which characters those are depends on the Python version.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"})

_PLAIN = re.compile(rf"[\w-]+(?:\.[\w-]+){{0,{MAX_SEGMENTS - 1}}}", re.ASCII)

S = TypeVar("S")


def is_pattern(name: str) -> bool:
    """Whether a valid topic expression has a wildcard."""
    return "*" in name


def check_topic(name: str) -> str:
    """Return `name` if one can publish to it; raise `InvalidTopic` otherwise."""
    check_expression(name)
    if is_pattern(name):
        raise InvalidTopic(f"the topic {_shown(name)} has a wildcard: publish to one topic")
    return name


def check_expression(name: str) -> str:
    """Return `name` if one can subscribe to it, a topic or a pattern; raise `InvalidTopic`."""
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - from JSON
        raise InvalidTopic(f"a topic is a str, not {type(name).__name__}")
    if _PLAIN.fullmatch(name) is not None and len(name) <= MAX_TOPIC_BYTES:
        return name  # nearly all are
    if not name:
        raise InvalidTopic("a topic has at least one character")
    if len(name) > MAX_TOPIC_BYTES or len(name.encode("utf-8", "replace")) > MAX_TOPIC_BYTES:
        raise InvalidTopic(f"the topic {_shown(name)} is longer than {MAX_TOPIC_BYTES} bytes")
    _check_characters(name)
    if name.startswith("$"):
        raise InvalidTopic(f"the topic {_shown(name)} is reserved: names with $ are the library's")
    return name


def _check_characters(name: str) -> None:
    if any(char == "," or unicodedata.category(char) in _REFUSED_CATEGORIES for char in name):
        raise InvalidTopic(
            f"the topic {_shown(name)} has a comma, a space, or a control, format or private "
            "character"
        )
    segments = name.split(".")
    if len(segments) > MAX_SEGMENTS or not all(segments):
        raise InvalidTopic(
            f"the topic {_shown(name)} needs 1 to {MAX_SEGMENTS} segments, none of them empty"
        )
    for number, segment in enumerate(segments, 1):
        if "*" in segment and segment != "*" and (segment != "**" or number < len(segments)):
            raise InvalidTopic(
                f"the pattern {_shown(name)}: * is a whole segment, and ** only the last one"
            )


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 40 else name[:40] + "…")


def matches(expression: str, topic: str) -> bool:
    """Whether a topic or pattern covers `topic`; linear in the number of segments."""
    if not is_pattern(expression):
        return expression == topic
    if topic.startswith("$"):
        return False
    wanted, given = expression.split("."), topic.split(".")
    if wanted[-1] == "**":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
    elif len(given) != len(wanted):
        return False
    return all(part in ("*", have) for part, have in zip(wanted, given, strict=False))


class _Node(Generic[S]):
    """One segment of the trie: who ends here, who ends here with `**`, and what follows."""

    __slots__ = ("children", "ends", "tails")

    def __init__(self) -> None:
        self.children: dict[str, _Node[S]] = {}
        self.ends: dict[S, None] = {}
        self.tails: dict[S, None] = {}

    def is_empty(self) -> bool:
        return not (self.children or self.ends or self.tails)


class TopicIndex(Generic[S]):
    """Subscribers by topic: exact names in a dict, patterns in a trie.

    The cost of `match` is that of the matches alone, whatever number of topics there is.

    Invariants (tests/core/test_topics.py): `match(t)` is exactly the subscribers one of whose
    expressions covers `t`, each once; after removing all that was added, nothing is held.
    """

    def __init__(self) -> None:
        self._exact: dict[str, dict[S, None]] = {}
        self._patterns: _Node[S] = _Node()

    def __bool__(self) -> bool:
        return bool(self._exact) or not self._patterns.is_empty()

    def add(self, expression: str, subscriber: S) -> None:
        """Subscribe; doing it again changes nothing."""
        if not is_pattern(expression):
            self._exact.setdefault(expression, {})[subscriber] = None
            return
        node, tail = self._patterns, False
        for segment in expression.split("."):
            if segment == "**":
                tail = True
                break
            node = node.children.setdefault(segment, _Node())
        (node.tails if tail else node.ends)[subscriber] = None

    def remove(self, expression: str, subscriber: S) -> None:
        """Unsubscribe; what is not there is left alone."""
        if not is_pattern(expression):
            held = self._exact.get(expression)
            if held is not None:
                held.pop(subscriber, None)
                if not held:
                    del self._exact[expression]
            return
        path: list[tuple[_Node[S], str]] = []
        node, tail = self._patterns, False
        for segment in expression.split("."):
            if segment == "**":
                tail = True
                break
            child = node.children.get(segment)
            if child is None:
                return
            path.append((node, segment))
            node = child
        (node.tails if tail else node.ends).pop(subscriber, None)
        for parent, segment in reversed(path):
            if not parent.children[segment].is_empty():
                break
            del parent.children[segment]

    def match(self, topic: str) -> Collection[S]:
        """The subscribers of `topic`, each once; a view, good until the index changes."""
        exact = self._exact.get(topic)
        if self._patterns.is_empty() or topic.startswith("$"):
            return () if exact is None else exact
        found: dict[S, None] = dict(exact) if exact else {}
        for subscribers in self._walk(topic.split(".")):
            found.update(subscribers)
        return found

    def _walk(self, segments: list[str]) -> Iterator[dict[S, None]]:
        level: list[_Node[S]] = [self._patterns]
        for segment in segments:
            following: list[_Node[S]] = []
            for node in level:
                if node.tails:
                    yield node.tails
                for name in (segment, "*"):
                    child = node.children.get(name)
                    if child is not None:
                        following.append(child)
            level = following
        for node in level:
            if node.ends:
                yield node.ends


class TopicTree:
    """A set of topics that finds those which a pattern covers, at the cost of the matches.

    Invariant (tests/core/test_topics.py): `match(pattern)` is what `matches` says of each topic.
    """

    _END = ""  # no segment is empty

    def __init__(self) -> None:
        self._root: dict[str, Any] = {}

    def add(self, topic: str) -> None:
        """Add a topic; doing it again changes nothing."""
        node = self._root
        for segment in topic.split("."):
            node = node.setdefault(segment, {})
        node[self._END] = topic

    def remove(self, topic: str) -> None:
        """Remove a topic that is there."""
        path = [self._root]
        segments = topic.split(".")
        for segment in segments:
            path.append(path[-1][segment])
        del path[-1][self._END]
        for node, segment in zip(reversed(path[:-1]), reversed(segments), strict=True):
            if node[segment]:
                break
            del node[segment]

    def match(self, pattern: str) -> Iterator[str]:
        """The topics that `pattern` covers; none that is reserved."""
        level = [self._root]
        *segments, last = pattern.split(".")
        for segment in segments:
            level = list(self._following(level, segment))
        if last == "**":
            yield from self._all(list(self._following(level, "*")))
        else:
            for node in self._following(level, last):
                if self._END in node and not node[self._END].startswith("$"):
                    yield node[self._END]

    def _following(self, level: list[dict[str, Any]], segment: str) -> Iterator[dict[str, Any]]:
        for node in level:
            if segment != "*":
                if segment in node:
                    yield node[segment]
            else:
                yield from (child for name, child in node.items() if name != self._END)

    def _all(self, level: list[dict[str, Any]]) -> Iterator[str]:
        while level:
            node = level.pop()
            if self._END in node and not node[self._END].startswith("$"):
                yield node[self._END]
            level.extend(child for name, child in node.items() if name != self._END)


def covering(expressions: Iterable[str], topic: str) -> Iterator[str]:
    """Those of `expressions` that cover `topic`."""
    return (expression for expression in expressions if matches(expression, topic))
