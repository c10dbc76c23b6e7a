"""The names under which a hub is kept: injective, and all in one hash slot."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from ...core.message import UserId
from ...errors import ConfigurationError

_HUB = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)

VERSION = 1
"""Of the layout; a hub of another one is another hub."""


def prefix(hub: str) -> str:
    """What every key of a hub begins with.

    The braces make Redis Cluster hash the hub's name alone (cluster specification, hash tags).
    """
    if _HUB.fullmatch(hub) is None:
        raise ConfigurationError(f"hub={hub!r:.80}: 1 to 64 characters of A-Z a-z 0-9 . _ -")
    return f"holdfast:{VERSION}:{{{hub}}}"


def address(topic: str, user: UserId | None) -> str:
    """One name for a topic and a user. No topic can imitate a user: those are quoted."""
    return f"{owner(user)}:{topic}"


def parse_address(text: str) -> tuple[str, UserId | None]:
    """The topic and user of an `address`."""
    user, _, topic = text.partition(":")
    return topic, parse_owner(user)


def owner(user: UserId | None) -> str:
    """`-` for nobody in particular, `+` and the quoted name for a user."""
    return "-" if user is None else f"+{quote(user, safe='', errors='surrogatepass')}"


def parse_owner(text: str) -> UserId | None:
    """The user of an `owner`."""
    if not text.startswith("+"):
        return None
    return UserId(unquote(text[1:], errors="surrogatepass"))
