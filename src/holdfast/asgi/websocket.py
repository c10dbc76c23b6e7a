"""/websocket: the fallback, with the same frames."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from urllib.parse import unquote

from ..asgi_types import Receive, Scope, Send
from ..auth import Request, User
from ..errors import BroadcasterFailed, Refused
from ..runtime.broadcaster import Broadcaster
from ..transports import websocket
from .access import Access, failed, presented
from .commands import Commands

SUBPROTOCOL = "holdfast"
BEARER = "bearer."


def _subprotocol(request: Request) -> dict[str, str]:
    """What to accept the handshake with; moves credentials to where the hooks look for them.

    A page can set no headers here, and URLs are logged: so it offers `holdfast` and
    `bearer.<token>`, escaped as in a URL, and that becomes `Authorization`. One of what is
    offered must be chosen, or a browser fails the handshake: never the one with the token.
    """
    offered = [
        each.strip() for each in request.headers.get("sec-websocket-protocol", "").split(",")
    ]
    if SUBPROTOCOL not in offered:
        return {}
    for each in offered:
        if each.startswith(BEARER) and "authorization" not in request.headers:
            request.headers["authorization"] = f"Bearer {unquote(each.removeprefix(BEARER))}"
    return {"subprotocol": SUBPROTOCOL}


class Sockets:
    """The WebSocket endpoint.

    A refused handshake is always code 1006 to JavaScript, so a refusal is accepted first, then
    closed with a code that says whether to come back.
    """

    def __init__(
        self,
        broadcaster: Broadcaster,
        access: Access,
        commands: Commands,
        limits: websocket.InboundLimits,
    ) -> None:
        self._broadcaster = broadcaster
        self._access = access
        self._commands = commands
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept, authenticate, run."""
        if (await receive())["type"] != "websocket.connect":
            return
        request = Request(scope)
        await send({"type": "websocket.accept", **_subprotocol(request)})
        try:
            request.check_query()
            self._access.check_origin(request)
            user = await self._access.user(request, "websocket")
            await self._run(request, user, receive, send)
        except BroadcasterFailed:
            await self._refuse(send, failed())
        except Refused as error:
            await self._refuse(send, error)

    async def _refuse(self, send: Send, error: Refused) -> None:
        text = websocket.refusal(error, self._broadcaster.now()).decode()
        with suppress(OSError, RuntimeError):  # the client may have left in between
            await send({"type": "websocket.send", "text": text})
            await websocket.close(send, error.close_code, error.code)

    async def _run(self, request: Request, user: User, receive: Receive, send: Send) -> None:
        last_event_id, token = presented(request)
        for may_resume in (True, False):  # once: what it left costs a session
            async with self._access.connect(
                request, user, "websocket", last_event_id=last_event_id, token=token
            ) as outbox:
                command = partial(self._commands.by_message, outbox)
                resume = await websocket.serve(
                    outbox, receive, send, command, limits=self._limits, may_resume=may_resume
                )
            if resume is None:
                return
            last_event_id, token = resume.event_id, None
