"""Topic names, patterns, and the indexes that match one with the other.

A topic is 1 to 200 bytes of UTF-8, compared byte by byte, without case folding or normalisation.
Dots separate its segments. In a pattern, `*` matches exactly one segment, and a final `**` matches
one or more. Examples: `orders.*` matches `orders.new` and not `orders.new.eu`; `orders.**` matches
both; neither matches `orders`. Names that begin with `$` are reserved for the library.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Generic, TypeVar

from ..errors import InvalidTopic

MAX_TOPIC_BYTES = 200
"""Bytes of a topic. NATS recommends fewer than 256; the name is part of every frame."""

MAX_SEGMENTS = 8
"""Segments of a topic. A match walks at most 2 ** 8 = 256 nodes at the last level of the trie."""

USER_TOPIC = "$user"
"""The topic of a user's personal messages; every identified user is subscribed to it."""

# Control, format (bidi, zero width), surrogate, private use; line, paragraph and space separators.
# "Unassigned" (Cn) is left out, because its characters depend on the Python version.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"})

_PLAIN = re.compile(rf"[\w-]+(?:\.[\w-]+){{0,{MAX_SEGMENTS - 1}}}", re.ASCII)

S = TypeVar("S")


def is_pattern(name: str) -> bool:
    """True if a valid topic or pattern has a wildcard."""
    return "*" in name


def check_topic(name: str) -> str:
    """Return `name` if it is a topic, which can be published to; raise `InvalidTopic` otherwise."""
    check_expression(name)
    if is_pattern(name):
        raise InvalidTopic(f"the topic {_shown(name)} has a wildcard: publish to one topic")
    return name


def check_expression(name: str) -> str:
    """Return `name` if it is a topic or a pattern; raise `InvalidTopic` otherwise."""
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - from JSON
        raise InvalidTopic(f"a topic is a str, not {type(name).__name__}")
    if _PLAIN.fullmatch(name) is not None and len(name) <= MAX_TOPIC_BYTES:
        return name  # nearly all names end here
    if not name:
        raise InvalidTopic("a topic has at least one character")
    if len(name) > MAX_TOPIC_BYTES or len(name.encode("utf-8", "replace")) > MAX_TOPIC_BYTES:
        raise InvalidTopic(f"the topic {_shown(name)} is longer than {MAX_TOPIC_BYTES} bytes")
    _check_characters(name)
    if name.startswith("$"):
        raise InvalidTopic(f"the topic {_shown(name)} is reserved: it begins with $")
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
            f"the topic {_shown(name)} must have 1 to {MAX_SEGMENTS} segments, none of them empty"
        )
    for number, segment in enumerate(segments, 1):
        if "*" in segment and segment != "*" and (segment != "**" or number < len(segments)):
            raise InvalidTopic(
                f"the pattern {_shown(name)}: * must be a whole segment, ** the last segment"
            )


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 40 else name[:40] + "…")


def matches(expression: str, topic: str) -> bool:
    """True if `expression` is `topic`, or a pattern that matches it."""
    if not is_pattern(expression):
        return expression == topic
    if topic.startswith("$"):
        return False
    parts, segments = expression.split("."), topic.split(".")
    if parts[-1] == "**":
        parts.pop()
        if len(segments) <= len(parts):
            return False
    elif len(segments) != len(parts):
        return False
    return all(part in ("*", segment) for part, segment in zip(parts, segments, strict=False))


class _Node(Generic[S]):
    """One segment of the trie.

    `ends` are the subscribers whose pattern ends here, and `tails` are those whose pattern
    continues with `**`.
    """

    __slots__ = ("children", "ends", "tails")

    def __init__(self) -> None:
        self.children: dict[str, _Node[S]] = {}
        self.ends: dict[S, None] = {}
        self.tails: dict[S, None] = {}

    def is_empty(self) -> bool:
        return not (self.children or self.ends or self.tails)


class TopicIndex(Generic[S]):
    """Subscribers by topic: exact names in a dict, patterns in a trie.

    The cost of `match` depends on the number of matches, and not on the number of topics.

    Invariants (tests/core/test_topics.py): `match(t)` returns exactly the subscribers that have an
    expression that matches `t`, each once; after everything was removed, nothing is held.
    """

    def __init__(self) -> None:
        self._exact: dict[str, dict[S, None]] = {}
        self._patterns: _Node[S] = _Node()

    def __bool__(self) -> bool:
        return bool(self._exact) or not self._patterns.is_empty()

    def add(self, expression: str, subscriber: S) -> None:
        """Subscribe; a repeated call changes nothing."""
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
        """Unsubscribe; does nothing if the subscriber does not have that expression."""
        if not is_pattern(expression):
            subscribers = self._exact.get(expression)
            if subscribers is not None:
                subscribers.pop(subscriber, None)
                if not subscribers:
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
        """Return the subscribers of `topic`, each once, as a view until the index changes."""
        exact = self._exact.get(topic)
        if self._patterns.is_empty() or topic.startswith("$"):
            return () if exact is None else exact
        matched: dict[S, None] = dict(exact) if exact else {}
        for subscribers in self._match_patterns(topic.split(".")):
            matched.update(subscribers)
        return matched

    def _match_patterns(self, segments: list[str]) -> Iterator[dict[S, None]]:
        level: list[_Node[S]] = [self._patterns]
        for segment in segments:
            next_level: list[_Node[S]] = []
            for node in level:
                if node.tails:
                    yield node.tails
                for name in (segment, "*"):
                    child = node.children.get(name)
                    if child is not None:
                        next_level.append(child)
            level = next_level
        for node in level:
            if node.ends:
                yield node.ends


class TopicTree:
    """A set of topics that finds those a pattern matches, at the cost of the matches.

    Invariant (tests/core/test_topics.py): `match(pattern)` yields exactly the topics for which
    `matches` is true.
    """

    _END = ""  # the key of a complete topic in a node; no segment is empty

    def __init__(self) -> None:
        self._root: dict[str, Any] = {}

    def add(self, topic: str) -> None:
        """Add a topic; a repeated call changes nothing."""
        node = self._root
        for segment in topic.split("."):
            node = node.setdefault(segment, {})
        node[self._END] = topic

    def remove(self, topic: str) -> None:
        """Remove a topic that was added."""
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
        """Yield the topics that `pattern` matches; a reserved topic matches no pattern."""
        level = [self._root]
        *segments, last = pattern.split(".")
        for segment in segments:
            level = list(self._children(level, segment))
        if last == "**":
            yield from self._descendants(list(self._children(level, "*")))
        else:
            for node in self._children(level, last):
                if self._END in node and not node[self._END].startswith("$"):
                    yield node[self._END]

    def _children(self, level: list[dict[str, Any]], segment: str) -> Iterator[dict[str, Any]]:
        for node in level:
            if segment != "*":
                if segment in node:
                    yield node[segment]
            else:
                yield from (child for name, child in node.items() if name != self._END)

    def _descendants(self, level: list[dict[str, Any]]) -> Iterator[str]:
        while level:
            node = level.pop()
            if self._END in node and not node[self._END].startswith("$"):
                yield node[self._END]
            level.extend(child for name, child in node.items() if name != self._END)


def covering(expressions: Iterable[str], topic: str) -> Iterator[str]:
    """Yield those of `expressions` that match `topic`."""
    return (expression for expression in expressions if matches(expression, topic))
