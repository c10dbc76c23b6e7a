"""BearerToken: the token that authenticates every request (RFC 6750)."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable

import anyio

from ..errors import ConfigurationError
from .frames import is_header_safe

TokenSource = str | Callable[[], str | Awaitable[str]]
"""A bearer token, or a plain or coroutine function that returns one."""


class BearerToken:
    """A token that is given as a string, or fetched from a function of the application.

    The function is called for the first request, and again after `discard`. Tasks that need the
    token at the same time share one call.
    """

    def __init__(self, source: TokenSource | None) -> None:
        self._source = source
        self._value: str | None = None
        self._lock = anyio.Lock()

    @property
    def is_renewable(self) -> bool:
        """True if the source is a function, which can return another token."""
        return callable(self._source)

    @property
    def value(self) -> str | None:
        """The token for the next request, or None if there is none."""
        return self._value

    async def fetch(self) -> None:
        """Fetch the token, unless there is no source or `value` is present.

        Raises ConfigurationError for a result that is not a token, and whatever the function of
        the application raises.
        """
        async with self._lock:
            if self._source is not None and self._value is None:
                self._value = await self._call(self._source)

    async def _call(self, source: TokenSource) -> str:
        token = source() if callable(source) else source
        token = await token if inspect.isawaitable(token) else token
        # An application without a type checker can return anything.
        if not (isinstance(token, str) and token and is_header_safe(token)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                "the token function must return a str of printable ASCII without spaces,"
                " and without the word Bearer"
            )
        return token

    def discard(self) -> None:
        """Drop the token, because the server has refused it or it has expired."""
        self._value = None
