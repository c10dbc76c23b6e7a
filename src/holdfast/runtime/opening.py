"""Opening: what `Broadcaster.connect` returns, and what a client presents to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..core.message import UserId
from .subscriptions import MaySubscribe

if TYPE_CHECKING:
    from .connection import Outbox
    from .handshake import Handshake


@dataclass(slots=True)
class ConnectRequest:
    """What a client presents. `token` counts before the one inside `last_event_id`.

    `acknowledges`: it will acknowledge what it gets, so it is served with a window.
    """

    user: UserId | None = None
    topics: Iterable[str] = ()
    last_event_id: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    transport: str = "custom"
    acknowledges: bool = False
    expires_at: float | None = None
    may_subscribe: MaySubscribe | None = None


class Opening:
    """A connection for the length of an `async with` block; its session outlives that."""

    __slots__ = ("_admission", "_hello", "_outbox")

    def __init__(self, admission: Handshake, hello: ConnectRequest) -> None:
        self._admission = admission
        self._hello: ConnectRequest | None = hello
        self._outbox: Outbox | None = None

    async def __aenter__(self) -> Outbox:
        hello, self._hello = self._hello, None
        if hello is None:
            raise RuntimeError("a connection is opened once")
        self._outbox = await self._admission.admit(hello)
        return self._outbox

    async def __aexit__(self, *_: object) -> None:
        assert self._outbox is not None
        await self._admission.leave(self._outbox)
