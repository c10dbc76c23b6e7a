"""The hostile values that are tried at all entry points."""

from __future__ import annotations

import json
import math
from typing import Any

from holdfast.core.cursor import EventId
from tests.core.builders import NASTY

MEGABYTE = 1024 * 1024
MARK = "hostile-7f3a"
"""Part of hostile input that must appear in no log and no answer."""


class Thing:
    """An object without a JSON form."""

    def __repr__(self) -> str:
        return "THING"


THING = Thing()

DIGITS = ["\u0667", "७", "\uff17", "\U0001d7d5", "¹", "Ⅶ", "七"]
"""Variants of `7` that are not valid."""

NUMBERS = [
    "-1", "+5", "1_000", " 5", "5 ", "0x10", "0b1", "0o7", "1e3", "1.0", "05", "00", "-0", "५",
    "٥", "9" * 19, "9" * 20, str(2**63), str(2**64), str(-(2**63)), "9" * 5_000, "", "NaN",
    "inf", "5\n", "5\r", "5\0", "\ufeff5", "%35", "&#53;", "5;", "5,", "١٢",
]  # fmt: skip
"""Values in the place of a cursor's number; `int()` accepts many of them."""

CURSORS = [
    *NUMBERS, "1.2", "1.2.3", "1.2.3.4.5", ".1.2.3", "1.2.3.", "1..2.3", "7.7.7.7", "1,2,3,4",
    "1.2.3.-4", "1. 2.3.4", *(f"{digit}.1.1.1" for digit in DIGITS),
    *(f"1{digit}" for digit in DIGITS), f"0.1.2.{2**63}",
]  # fmt: skip
"""Values in the place of a cursor."""

TEXTS = [
    *(text for text in NASTY if text),
    MARK, f"{MARK}\r\nSet-Cookie: {MARK}=1", f"{MARK}\n\ndata: {MARK}", f"\x1b]0;{MARK}\x07",
    f"${{jndi:ldap://{MARK}}}", f"{MARK}%s%n%x", f"{{{MARK}.__class__}}", f"%(asctime)s{MARK}",
    f"../../{MARK}", f"' OR '{MARK}'='", f"<script>{MARK}</script>", "%", "%%", "%zz", "%u0041",
    "%C3%28", "a\rb", "a\nb", "a\0b", "\x7f\x80\xff", "\x85", "\ud83d", "\ude00\ud83d", "🙂",
    "~", "~~~", "A" * 12 + "~0~", "~0~" + "A" * 22, "A" * 22, "." * 128, "~" * 128,
]  # fmt: skip
"""Other values in the place of an event id or a token; none is empty."""


def mangled(id: str) -> list[str]:
    """Return variants of a real event id with one defect. None of them was issued."""
    epoch, cursor, token = id.split("~")
    swapped = token.swapcase()
    changed = [
        id[1:], id[:-1], id + "A", "A" + id, id + " ", " " + id, id + "\n", id + "\r\n", id + "\0",
        id + "=", id + "==", f'"{id}"', f"\ufeff{id}", id.replace("~", "\uff5e"),
        id.replace("~", "."),
        id.replace("~", "%7E"), id + id, f"{id}, {id}", f"{id}\r\nid: {id}", f"{id}~", f"~{id}",
        f"{epoch}~{cursor}", f"{epoch}~{cursor}~", f"{epoch}~~{token}", f"~{cursor}~{token}",
        f"{token}~{cursor}~{epoch}", f"{epoch[:-1]}~{cursor}~{token}", f"{epoch}~{cursor}~{token}A",
        f"{epoch}~{cursor}~{token[:-1]}", f"{epoch}~{cursor}~{token[:-1]}é",
        f"{epoch}~{cursor}~{token[:-1]}+", f"{epoch}~{cursor}~{token[:-1]}/",
        *(f"{epoch}~{wrong}~{token}" for wrong in CURSORS),
    ]  # fmt: skip
    if swapped != token:
        changed.append(f"{epoch}~{cursor}~{swapped}")
    return changed


def well_formed(text: str) -> bool:
    """Return whether `text` is an event id by the grammar, issued or not."""
    return EventId.parse(text) is not None


def mangled_tokens(token: str) -> list[str]:
    """Return variants of a real token with one defect."""
    return [
        token[1:], token[:-1], token + "A", "A" + token, token + "=", token + "==", token + " ",
        " " + token, token + "\n", token.swapcase(), token.upper(), token.lower(), token[::-1],
        token + token, f'"{token}"', f"Bearer {token}", f"{token},{token}", token + "\0",
        token[:-1] + "é", token[:-1] + "\u0430", f"~0~{token}", token.ljust(MEGABYTE, "A"),
    ]  # fmt: skip


NO_TOPICS = [
    " ", "a b", " a", "a ", "a\tb", "a\n", "a\r\nb", "\0", "a\0b", "a\x1b[2Jb", "a\x7fb", "a\x85b",
    "a\u00a0b", "a\u2003b", "a\u2028b", "a\u2029b", "a\u202eb", "a\u2066b", "a\u200bb", "a\u200db",
    "a\u2060b", "a\u00adb", "\ufeffa", "a\ue000b", "\U000f0000", "a\U000e0061b",
    ".", "..", "a.", ".a", "a..b", ".".join("abcdefghi"), "x" * 201, "é" * 101, "🙂" * 51,
    "x" * 10_240, "a." * 5_120 + "a", "*a", "a*", "a.*b", "***", "**.a", "a.**.b", "*.**.*",
    "*" * 1_000, "*." * 8 + "*", "*." * 5_000 + "*", "$user", "$", "$SYS", "$user.x", "$*", "$**",
]  # fmt: skip
"""Names that are neither topic nor pattern at any entry point."""

SURROGATES = ["\ud800", "a\udfff", "\ud83d", "\ude00\ud83d"]
"""Texts without a UTF-8 form, which JSON and Python code can contain."""

ODD_TOPICS = [
    "A", "a", "é", "e\u0301", "É", "K", "\u212a", "straße", "strasse", "İ", "\u0131", "ﬁ", "fi",
    "{a}:b|c", "a:{b}", "{", "}", "[a-z]", "a?", "a|b", "(a+)+", "^a", "a\\", "a'b", 'a"b',
    "%00", "%2C", "a#b", "a&b", "a+b", "a;b", "a=b", "-", "--", "#", ">", "a$", "a.$b", "x" * 200,
    "é" * 100, "a.b.c.d.e.f.g.h", "日本", "🙂", "__proto__", "null", "0", "-1", "<b>",
    "/etc/passwd",
]  # fmt: skip
"""Names with a meaning in other systems; here each is a plain topic of its own."""

WRONG_TYPES: list[Any] = [
    None, True, False, 0, -1, 5, 1.5, 1e308, 2**64, {}, {"a": 1}, [None], [1], [True], [["a"]],
    [{}], ["a", 1], ["a", None], [[]],
]  # fmt: skip
"""JSON values in the place of a list of topics, or of a text."""


def cycle() -> Any:
    """Return an object that contains itself."""
    value: list[Any] = []
    value.append({"self": value})
    return value


def nested(depth: int) -> Any:
    """Return nested lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


GOOD_PAYLOADS: list[Any] = [
    None, True, False, 0, -1, 2**63, 10**4000, 1e-320, 1.7976931348623157e308, "", [], {},
    {"": {"": []}}, "\r", "\n", "\r\n", "\n\n", "a\r\nid: forged\n\ndata: {}", "id: 9", ":comment",
    "\ufeff", "\ufeffdata", "\u2028\u2029\x85\x0b\x0c", "\0", "\x00\r\x00", "\x1b[2J", "\x7f\x80",
    "\ufffe\uffff", "🙂", "\U0010ffff", " lead", "trail ", "\\", '"', "</script>", "data",
    {"data": 1, "id": "x", "type": "closing", "topic": "$user"}, {"\r\nid": "\r\n"}, [[]] * 50,
    nested(200), "x" * 65_536, "é" * 40_000, {str(n): n for n in range(1000)},
]  # fmt: skip
"""JSON values that a stream must carry unchanged."""

BAD_PAYLOADS: list[Any] = [
    math.nan, math.inf, -math.inf, [math.nan], {"a": {"b": math.inf}}, {math.nan: 1}, b"", b"x",
    bytearray(b"x"), {1, 2}, THING, 1j, range(2), iter([]), print, Exception(MARK),
    {(1, 2): 3}, {b"k": 1}, {None: THING}, "\ud800", ["\udfff"], {"\udc00": 1}, cycle(),
    nested(100_000), 10**5000, {"a": 10**5000}, memoryview(b"x"), type, NotImplemented,
]  # fmt: skip
"""Values without a JSON form."""

HUGE = 10**400
"""An integer beyond every float: `math.isfinite` raises for it."""

BAD_TTLS: list[Any] = [
    0, 0.0, -0.0, -1, -1e-9, math.nan, math.inf, -math.inf, "5", "", b"5", True, False, [], {},
    1j, HUGE, -HUGE, THING,
]  # fmt: skip
BAD_PRIORITIES: list[Any] = [
    True, False, 0, 1, 3, 4, -1, 1.0, "HIGH", "high", "", None, [], b"HIGH", math.nan, THING,
]  # fmt: skip
BAD_KEYS: list[Any] = [
    0, False, 1.5, b"", b"k", [], {}, THING, "x" * 201, "é" * 101, "\ud800", "x" * MEGABYTE,
    "\ud800" * 10_000,
]  # fmt: skip
GOOD_KEYS = ["", " ", "\0", "\r\n", "é", "e\u0301", "\u2028", "x" * 200, "é" * 100, "🙂", "id: 1"]


NOT_JSON = [
    "", " ", "\0", "{", "}", "[", "]", '"', "'", "{}{}", "{},", "{'type': 'ping'}", "type=ping",
    "{type: ping}", '{"type": "ping"', '{"type": "ping",}', '{"type": "ping"} x', "[1,]",
    '{"type": "ping", "x": NaN}', '{"type": "ping", "x": Infinity}', '{"x": -Infinity}', "NaN",
    '{"type": "ping", "x": 01}', '{"type": "ping", "x": +1}', '{"type": "ping", "x": 0x1}',
    '{"type": "ping", "x": 1_000}', '{"type": "ping", "x": .5}', '{"type": "ping", "x": 1.}',
    '{"type": "pi\nng"}', '{"type": "\0"}', '{"type": "\\x41"}', '{"type": "\\u12"}', "undefined",
    "\ufeff{}", "/**/{}", '{"type": "ping" /* */}', MARK, "[" * 60_000, '{"type":' * 8_000,
    '[{"type":' * 6_000, '{"type": "ping", "x": ' + "9" * 5_000 + "}", "\ud800", "\ud800{}",
]  # fmt: skip
"""Texts that are not JSON (RFC 8259), or that Python's decoder refuses."""

NOT_TYPED = [
    "null", "true", "false", "0", "-0", "1e999", "5", '"ping"', '""', "[]", "[[]]", '["ping"]',
    '[{"type": "ping"}]', "{}", '{"Type": "ping"}', '{"type ": "ping"}', '{"type": null}',
    '{"type": true}', '{"type": 0}', '{"type": 1e999}', '{"type": []}', '{"type": ["ping"]}',
    '{"type": {}}', '{"type": {"type": "ping"}}', '{"type": "ping", "type": 5}',
]  # fmt: skip
"""JSON that is not an object with a string `type`."""

NO_TYPES = [
    "", " ", "PING", "Ping", "ping ", " ping", "ping\0", "p\u0456ng", "\ud800", "🙂", "x" * 60_000,
    "connection_established", "message", "closing", "gap", "heartbeat", "pong", "error",
    "__class__", "publish", "test", "hello", MARK, f"{MARK}\r\n",
]  # fmt: skip
"""Types of message that do not exist."""


def as_json(value: Any) -> str:
    """Return ASCII JSON: a lone surrogate becomes an escape, as hostile clients write it."""
    return json.dumps(value)
