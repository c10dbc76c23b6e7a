"""Opening: what `Broadcaster.connect` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .admission import Admission, Hello
    from .outbox import Outbox


class Opening:
    """A connection for the length of an `async with` block; its session outlives that."""

    __slots__ = ("_admission", "_hello", "_outbox")

    def __init__(self, admission: Admission, hello: Hello) -> None:
        self._admission = admission
        self._hello: Hello | None = hello
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
