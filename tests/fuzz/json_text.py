"""Decide whether a text is JSON: RFC 8259 rule by rule, without recursion or a decoder."""

from __future__ import annotations

WHITE = " \t\n\r"
DIGITS = "0123456789"
HEX = DIGITS + "abcdefABCDEF"


def skip(text: str, at: int) -> int:
    """Section 2: `ws`."""
    while at < len(text) and text[at] in WHITE:
        at += 1
    return at


def string(text: str, at: int) -> int:
    """Section 7: return the end of the string that begins at `at`; -1: not a string."""
    if text[at : at + 1] != '"':
        return -1
    at += 1
    while at < len(text):
        char = text[at]
        if char == '"':
            return at + 1
        if char < " ":
            return -1
        if char == "\\":
            escape = text[at + 1 : at + 2]
            if escape == "u":
                digits = text[at + 2 : at + 6]
                if len(digits) != 4 or any(digit not in HEX for digit in digits):
                    return -1
                at += 6
                continue
            if not escape or escape not in '"\\/bfnrt':
                return -1
            at += 1
        at += 1
    return -1


def number(text: str, at: int) -> int:
    """Section 6: return the end of the number that begins at `at`; -1: not a number."""
    at += text[at : at + 1] == "-"
    if text[at : at + 1] == "0":
        at += 1
    else:
        at = digits(text, at)
    if at >= 0 and text[at : at + 1] == ".":
        at = digits(text, at + 1)
    if at >= 0 and text[at : at + 1] in ("e", "E"):
        at += 1
        at = digits(text, at + (text[at : at + 1] in ("+", "-")))
    return at


def digits(text: str, at: int) -> int:
    """Return the end of one or more digits; -1: no digit."""
    end = at
    while end < len(text) and text[end] in DIGITS:
        end += 1
    return end if end > at else -1


def scalar(text: str, at: int) -> int:
    """Return the end of a value that is neither object nor array; -1: not a value."""
    for literal in ("true", "false", "null"):
        if text.startswith(literal, at):
            return at + len(literal)
    return string(text, at) if text[at : at + 1] == '"' else number(text, at)


def is_json(text: str) -> bool:
    """Section 2: `JSON-text`."""
    open_: list[str] = []
    at, expected = skip(text, 0), "value"
    while True:
        at = skip(text, at)
        char = text[at : at + 1]
        if expected == "value" and char and char in "[{":
            open_.append(char)
            at = skip(text, at + 1)
            if text[at : at + 1] == {"[": "]", "{": "}"}[char]:
                expected = "end"
            elif char == "{":
                expected = "name"
            continue
        if expected == "value":
            at = scalar(text, at)
            expected = "end of value"
        elif expected == "name":
            at = string(text, at)
            at = skip(text, at) if at >= 0 else -1
            if at < 0 or text[at : at + 1] != ":":
                return False
            at, expected = at + 1, "value"
            continue
        elif expected == "end":  # the end of an empty array or object
            open_.pop()
            at, expected = at + 1, "end of value"
        if at < 0:
            return False
        at = skip(text, at)
        if not open_:
            return at == len(text)
        char = text[at : at + 1]
        if char == ",":
            at, expected = at + 1, "name" if open_[-1] == "{" else "value"
        elif char == {"[": "]", "{": "}"}[open_[-1]]:
            expected = "end"
        else:
            return False
