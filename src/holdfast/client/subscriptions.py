"""Subscriptions: the topics that are wanted, and how the server learns of a change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import anyio

from ..core.topics import check_expression
from ..errors import ConfigurationError, RequestRefused
from .endpoint import UNANSWERED, Answer, Endpoint
from .frames import Hello
from .link import Link
from .records import Subscribed

PATIENCE = 0.5
"""Seconds between two tries on a connection that may have ended without our knowledge."""


def checked(topics: Iterable[str]) -> list[str]:
    """The topics, each once; raises `InvalidTopic`, and `ConfigurationError` for one string."""
    if isinstance(topics, str):
        raise ConfigurationError("topics must be a list of topics, not a string")
    return list(dict.fromkeys(map(check_expression, topics)))


class Subscriptions:
    """The topics that are wanted, which are those that every request names.

    A change is made there first. Then the server is told, on the connection of now; where that
    cannot be, another connection is made, whose request names it.
    """

    def __init__(self, endpoint: Endpoint, link: Link, topics: Iterable[str]) -> None:
        self._endpoint = endpoint
        self._link = link
        self._wanted = dict.fromkeys(checked(topics))
        self._adopts = not self._wanted
        self._named: frozenset[str] = frozenset()
        self._one_at_a_time = anyio.Lock()

    def request(self) -> Sequence[str]:
        """The topics that a request names now."""
        self._named = frozenset(self._wanted)
        return sorted(self._named)

    def begin(self, hello: Hello) -> None:
        """The first frame is here."""
        if self._adopts:
            # We named none, so these are the session's own. Name them from now on: a set that is
            # not complete would replace them (docs/protocol.md, section 7).
            self._wanted = dict.fromkeys(hello.topics)
            self._adopts = False

    async def subscribe(self, topics: Iterable[str]) -> Subscribed:
        """Add topics. Raises `RequestRefused`; cancelled, they are wanted all the same."""
        names = checked(topics)
        async with self._one_at_a_time:
            added = [name for name in names if name not in self._wanted]
            self._wanted.update(dict.fromkeys(names))
            try:
                answer = await self._settle("/subscribe", names, wanted=True)
            except RequestRefused:
                self._drop(added)
                raise
            self._drop(name for name in answer.rejected if name in added)
            return answer

    async def unsubscribe(self, topics: Iterable[str]) -> tuple[str, ...]:
        """Remove topics; those that were held. Raises `RequestRefused`."""
        names = checked(topics)
        async with self._one_at_a_time:
            held = tuple(name for name in names if name in self._link.topics)
            self._drop(names)
            await self._settle("/unsubscribe", names, wanted=False)
            return held

    def _drop(self, names: Iterable[str]) -> None:
        for name in list(names):
            self._wanted.pop(name, None)

    async def _settle(self, path: str, names: list[str], *, wanted: bool) -> Subscribed:
        """Wait until the server knows: by this POST, or by a request that was made since."""
        before = self._link.number
        while names:
            hello = await self._link.opened()
            number, held = self._link.number, set(self._link.topics)
            if wanted and number > before and self._named.issuperset(names):
                return _split(names, held)
            if not wanted and held.isdisjoint(names):
                break
            body = {"connectionId": hello.connection_id, "topics": names}
            try:
                answer = await self._endpoint.post(path, body)
            except UNANSWERED:
                await self._link.ended(number, within=PATIENCE)
                continue
            if answer.status == 200 and self._link.number == number:
                return self._answered(answer, names, wanted=wanted)
            if answer.status == 404:
                # It has ended, or lives in another process of the server.
                await self._link.ended(number, within=PATIENCE)
                if self._link.number == number:
                    self._link.restart("the server does not know the connection")
                    await self._link.ended(number, within=PATIENCE)
            elif 400 <= answer.status < 500 and answer.status not in (401, 408, 425, 429):
                raise answer.refused()
            else:
                await self._link.ended(number, within=PATIENCE)
        return Subscribed((), ())

    def _answered(self, answer: Answer, names: list[str], *, wanted: bool) -> Subscribed:
        held = self._link.topics
        if not wanted:
            self._link.topics = tuple(name for name in held if name not in names)
            return Subscribed((), ())
        said = answer.value.get("topics")
        listed = set(cast("list[str]", said)) if isinstance(said, list) else set[str]()
        found = _split(names, listed)
        self._link.topics = (*held, *(name for name in found.topics if name not in held))
        return found


def _split(names: list[str], held: set[str]) -> Subscribed:
    return Subscribed(
        tuple(name for name in names if name in held),
        tuple(name for name in names if name not in held),
    )
