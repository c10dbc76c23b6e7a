"""The names of keys: injective, and all keys of a namespace in one hash slot."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from ...core.message import UserId
from ...errors import ConfigurationError

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)

VERSION = 1
"""The version of the layout. Two versions share no key."""


def prefix(namespace: str) -> str:
    """Return the text with which every key of a namespace begins.

    The braces make Redis Cluster hash the namespace alone (cluster specification, hash tags).

    Raises:
        ConfigurationError: The namespace has other characters than those of its grammar.
    """
    is_text = isinstance(namespace, str)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not is_text or _NAMESPACE.fullmatch(namespace) is None:
        raise ConfigurationError(
            f"namespace={namespace!r:.80}: 1 to 64 characters of A-Z a-z 0-9 . _ -"
        )
    return f"holdfast:{VERSION}:{{{namespace}}}"


def format_address(topic: str, user: UserId | None) -> str:
    """Return one name for a topic and the user that its messages are for.

    A topic cannot imitate a user, because the name of the user is quoted.
    """
    return f"{format_user(user)}:{topic}"


def parse_address(text: str) -> tuple[str, UserId | None]:
    """Return the topic and the user of an address."""
    user, _, topic = text.partition(":")
    return topic, parse_user(user)


def format_user(user: UserId | None) -> str:
    """Return `+` and the quoted name of a user, or `-` for no user."""
    return "-" if user is None else f"+{quote(user, safe='', errors='surrogatepass')}"


def parse_user(text: str) -> UserId | None:
    """Return the user of `format_user`."""
    if not text.startswith("+"):
        return None
    return UserId(unquote(text[1:], errors="surrogatepass"))
