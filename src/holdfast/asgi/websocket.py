"""/websocket: the frames of a connection over WebSocket."""

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
"""The subprotocol that the server chooses (RFC 6455, section 1.9)."""

BEARER = "bearer."
"""The prefix of the offered subprotocol that contains a bearer token."""


def _subprotocol(request: Request) -> dict[str, str]:
    """Return the subprotocol to accept, and move a bearer token to the header `Authorization`.

    A page cannot set headers on a WebSocket, and URLs are logged. Therefore a page may offer two
    subprotocols: `holdfast` and `bearer.<token>`, escaped as in a URL. The server must choose one
    of them, because a browser fails the handshake otherwise, and chooses `holdfast`.
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


class WebSocketEndpoint:
    """The WebSocket endpoint.

    The server accepts every handshake and closes refused ones with the code of their reason,
    because JavaScript sees a refused handshake as code 1006, without a cause.
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
        """Accept the handshake, authenticate, and serve until the client or the server ends it."""
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
        with suppress(OSError, RuntimeError):  # the client may have disconnected
            await send({"type": "websocket.send", "text": text})
            await websocket.close(send, error.reason)

    async def _run(self, request: Request, user: User, receive: Receive, send: Send) -> None:
        last_event_id, reconnect_token = presented(request)
        for may_resume in (True, False):  # one resume per socket, because each redeems a token
            async with self._access.connect(
                request,
                user,
                "websocket",
                last_event_id=last_event_id,
                reconnect_token=reconnect_token,
            ) as connection:
                command = partial(self._commands.by_message, connection)
                resume = await websocket.serve(
                    connection, receive, send, command, limits=self._limits, may_resume=may_resume
                )
            if resume is None:
                return
            last_event_id, reconnect_token = resume.event_id, None
