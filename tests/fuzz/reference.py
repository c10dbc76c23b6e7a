"""The grammars of the specifications, read by the character, without our code or regex.

The functions are slow and obvious on purpose. Each names the text that it follows.
"""

from __future__ import annotations

import unicodedata

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"
HEX = DIGITS + "abcdefABCDEF"
ID_CHARACTERS = LETTERS + DIGITS + "-_"


def offset(text: str) -> int | None:
    """docs/protocol.md, section 5: `offset`."""
    if not text or any(char not in DIGITS for char in text):
        return None
    if text[0] == "0" and text != "0":
        return None
    if len(text) > 19:
        return None
    value = 0
    for char in text:
        value = value * 10 + DIGITS.index(char)
    return value if value <= 2**63 - 1 else None


def cursor(text: str) -> tuple[int, int, int, int] | None:
    """docs/protocol.md, section 5: `cursor`, the most urgent lane first."""
    parts = text.split(".")
    numbers = [offset(part) for part in parts]
    critical = numbers[0]
    if len(numbers) == 1 and critical is not None:
        return (critical, critical, critical, critical)
    if len(numbers) != 4 or any(number is None for number in numbers):
        return None
    if numbers == [critical] * 4:
        return None  # "If the four are equal, it is one number, and no other form is valid"
    _, high, normal, low = numbers
    assert critical is not None
    assert high is not None
    assert normal is not None
    assert low is not None
    return (critical, high, normal, low)


def event_id(text: str) -> tuple[str, tuple[int, int, int, int], str] | None:
    """docs/protocol.md, section 5: `event-id`, as epoch, cursor and token."""
    parts = text.split("~")
    if len(parts) != 3:
        return None
    epoch, middle, token = parts
    marks = cursor(middle)
    if len(epoch) != 12 or len(token) != 22 or marks is None:
        return None
    if any(char not in ID_CHARACTERS for char in epoch + token):
        return None
    return epoch, marks, token


def is_expression(name: str) -> bool:
    """docs/protocol.md, section 1, "Topics and patterns": the expressions a client may use."""
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return False
    if not 1 <= size <= 200 or name[0] == "$" or "," in name:
        return False
    for char in name:
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"):
            return False
    segments = name.split(".")
    if len(segments) > 8 or "" in segments:
        return False
    for segment in segments[:-1]:
        if "*" in segment and segment != "*":
            return False
    return "*" not in segments[-1] or segments[-1] in ("*", "**")


def covers(expression: str, topic: str) -> bool:
    """docs/protocol.md, section 1: whether a pattern covers a topic, segment by segment."""
    if expression == topic:
        return True
    if topic[:1] == "$":
        return False

    def rest(wanted: list[str], given: list[str]) -> bool:
        if not wanted or not given:
            return wanted == given
        if wanted == ["**"]:
            return True
        return wanted[0] in ("*", given[0]) and rest(wanted[1:], given[1:])

    return rest(expression.split("."), topic.split("."))


def query(raw: bytes) -> dict[str, str] | None:
    """WHATWG URL, section 5.1; the first of several fields counts. None: over the limits."""
    if len(raw) > 65_536 or raw.count(b"&") >= 100:
        return None
    found: dict[str, str] = {}
    for piece in raw.split(b"&"):
        if piece:
            name, _, value = piece.partition(b"=")
            found.setdefault(_form_decoded(name), _form_decoded(value))
    return found


def is_decimal(text: str) -> bool:
    """Return whether the text has up to four digits, and up to six after a point."""
    whole, point, rest = text.partition(".")
    digits = set("0123456789")
    return (
        0 < len(whole) < 5
        and set(whole) <= digits
        and (0 < len(rest) < 7 and set(rest) <= digits if point else True)
    )


def _form_decoded(raw: bytes) -> str:
    out, at = bytearray(), 0
    while at < len(raw):
        char, pair = raw[at : at + 1], raw[at + 1 : at + 3].decode("latin-1")
        if char == b"%" and len(pair) == 2 and all(digit in HEX for digit in pair):
            out.append(int(pair, 16))
            at += 3
        else:
            out += b" " if char == b"+" else char
            at += 1
    return out.decode("utf-8", "replace")
